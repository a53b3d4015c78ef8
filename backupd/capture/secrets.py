"""What looks like a secret: files by their names, small texts by what stands in them.

Only decides. The patterns are those that `docs/code.md` lists; each is of a kind whose form its
issuer publishes, so that a hit is a secret and not a guess.
"""

from __future__ import annotations

import re

MOST_BYTES = 1 << 20
"""A longer file is not looked into; configurations and scripts are shorter."""

_NAMES = (
    rb"\.env(?:\.(?!example$|sample$|template$|dist$)[^/]+)?",
    rb"[^/]+\.(?:pem|key|p12|pfx|jks|keystore|kdbx|ppk|ovpn)",
    rb"id_(?:rsa|dsa|ecdsa|ed25519)(?:_sk)?",
    rb"\.(?:netrc|pgpass|git-credentials|pypirc|s3cfg|boto|htpasswd|vault-token)",
    rb"kaggle\.json|service[-_]account[^/]*\.json|client_secret[^/]*\.json",
    rb"application_default_credentials\.json|credentials\.json|secrets?\.(?:ya?ml|json|toml)",
    rb"(?:\.ssh|\.gnupg|\.aws|\.azure)/.+",
    rb"\.docker/config\.json|\.kube/config|\.config/gcloud/.+",
    rb"\.?huggingface/(?:token|stored_tokens)",
)
_NAMED = re.compile(rb"(?:^|/)(?:" + b"|".join(_NAMES) + rb")$", re.DOTALL)

# Each kind: what people call it, a word that every hit holds (it is sought first, as that is
# twenty times quicker), and its form.
_CONTENT: tuple[tuple[str, bytes, bytes], ...] = (
    ("a private key", b"PRIVATE KEY", rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    ("a Hugging Face token", b"hf_", rb"\bhf_[A-Za-z0-9]{30,}\b"),
    ("an AWS access key", b"AKIA", rb"\bAKIA[0-9A-Z]{16}\b"),
    ("an AWS session key", b"ASIA", rb"\bASIA[0-9A-Z]{16}\b"),
    (
        "an AWS secret key",
        b"aws_secret_access_key",
        rb"aws_secret_access_key[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9/+]{40}\b",
    ),
    (
        "an AWS secret key",
        b"AWS_SECRET_ACCESS_KEY",
        rb"AWS_SECRET_ACCESS_KEY[\"']?\]?\s*[:=]\s*[\"']?[A-Za-z0-9/+]{40}\b",
    ),
    *(
        ("a GitHub token", word, rb"\b" + word + rb"[A-Za-z0-9]{36,}\b")
        for word in (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_")
    ),
    ("a GitHub token", b"github_pat_", rb"\bgithub_pat_[A-Za-z0-9_]{50,}"),
    ("a GitLab token", b"glpat-", rb"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("a Slack token", b"xox", rb"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("a Slack webhook", b"hooks.slack.com", rb"hooks\.slack\.com/services/T[A-Za-z0-9/]{20,}"),
    ("an OpenAI key", b"T3BlbkFJ", rb"\bsk-[A-Za-z0-9_-]{20,}T3BlbkFJ[A-Za-z0-9_-]{20,}"),
    ("an Anthropic key", b"sk-ant-", rb"\bsk-ant-[A-Za-z0-9_-]{20,}"),
    ("a Google API key", b"AIza", rb"\bAIza[0-9A-Za-z_-]{35}"),
    ("a PyPI token", b"pypi-", rb"\bpypi-AgE[A-Za-z0-9_-]{40,}"),
    ("an npm token", b"npm_", rb"\bnpm_[A-Za-z0-9]{36}\b"),
    ("a Stripe key", b"_live_", rb"\b[sr]k_live_[A-Za-z0-9]{20,}"),
    (
        "a Weights & Biases key",
        b"WANDB_API_KEY",
        rb"WANDB_API_KEY[\"']?\]?\s*[:=]\s*[\"']?[0-9a-f]{40}\b",
    ),
)
_RAREST = b"JWYKSzx_-k"
_FORMS = tuple(
    (kind, next(bytes([byte]) for byte in _RAREST if byte in word), word, re.compile(form))
    for kind, word, form in _CONTENT
)
"""With the rarest byte of each word: looking for one byte is a tenth of looking for a word."""
_BYTES = frozenset(byte for _, byte, _, _ in _FORMS)
# Where the changes of a file begin, in git's form and in Subversion's.
_PATCH_FILE = re.compile(rb"^(?=diff --git |Index: )", re.MULTILINE)
_PATCH_NAME = re.compile(rb'^(?:---|\+\+\+) "?(?:[ab]/)?(.*?)"?(?:\t.*)?$')


def is_secret_name(path: bytes) -> bool:
    """Whether a file of that relative path holds secrets by its very name."""
    return _NAMED.search(path) is not None


def secret_in(content: bytes | memoryview) -> str:
    """What kind of secret stands in a text, `a GitHub token`; empty where none does.

    What holds a zero byte at its beginning is no text.
    """
    text = bytes(content)
    if b"\0" in text[:8192]:
        return ""
    there = {byte for byte in _BYTES if byte in text}
    for kind, byte, word, form in _FORMS:
        if byte in there and word in text and form.search(text):
            return kind
    return ""


def why_secret(path: bytes, content: bytes | memoryview) -> str:
    """Why a file is left out, to go after its path; empty where it is not."""
    if is_secret_name(path):
        return "holds secrets by its name, so it was left out"
    kind = secret_in(content) if len(content) <= MOST_BYTES else ""
    return f"holds {kind}, so it was left out" if kind else ""


def without_secrets(patch: bytes) -> tuple[bytes, int]:
    """A patch without the files whose changes show a secret, and how many."""
    parts = _PATCH_FILE.split(patch)
    kept = [part for part in parts if not _shows_secret(part)]
    return b"".join(kept), len(parts) - len(kept)


def _shows_secret(part: bytes) -> bool:
    head = part.split(b"\n@@", 1)[0]
    for line in head.splitlines():
        name = _PATCH_NAME.match(line)
        if name and is_secret_name(name[1]):
            return True
    return bool(secret_in(part))
