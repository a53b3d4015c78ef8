"""What looks like a secret: files by their names, small texts by what stands in them.

Only decides. The patterns are those that `docs/code.md` lists; each is of a kind whose form its
issuer publishes, so that a hit is a secret and not a guess.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re2

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

_SPACE = rb"[\t-\r ]*"  # what \s is to `re`; RE2's leaves out the vertical tab
# Each kind: what people call it and its form; where several fit, the first is told.
_FORMS: tuple[tuple[str, bytes], ...] = (
    ("a private key", rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    ("a Hugging Face token", rb"\bhf_[A-Za-z0-9]{30,}\b"),
    ("an AWS access key", rb"\bAKIA[0-9A-Z]{16}\b"),
    ("an AWS session key", rb"\bASIA[0-9A-Z]{16}\b"),
    (
        "an AWS secret key",
        rb"(?:aws_secret_access_key[\"']?|AWS_SECRET_ACCESS_KEY[\"']?\]?)"
        + _SPACE
        + rb"[:=]"
        + _SPACE
        + rb"[\"']?[A-Za-z0-9/+]{40}\b",
    ),
    ("a GitHub token", rb"\bgh[opurs]_[A-Za-z0-9]{36,}\b|\bgithub_pat_[A-Za-z0-9_]{50,}"),
    ("a GitLab token", rb"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("a Slack token", rb"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    ("a Slack webhook", rb"hooks\.slack\.com/services/T[A-Za-z0-9/]{20,}"),
    ("an OpenAI key", rb"\bsk-[A-Za-z0-9_-]{20,}T3BlbkFJ[A-Za-z0-9_-]{20,}"),
    ("an Anthropic key", rb"\bsk-ant-[A-Za-z0-9_-]{20,}"),
    ("a Google API key", rb"\bAIza[0-9A-Za-z_-]{35}"),
    ("a PyPI token", rb"\bpypi-AgE[A-Za-z0-9_-]{40,}"),
    ("an npm token", rb"\bnpm_[A-Za-z0-9]{36}\b"),
    ("a Stripe key", rb"\b[sr]k_live_[A-Za-z0-9]{20,}"),
    (
        "a Weights & Biases key",
        rb"WANDB_API_KEY[\"']?\]?" + _SPACE + rb"[:=]" + _SPACE + rb"[\"']?[0-9a-f]{40}\b",
    ),
)
# Where the changes of a file begin, in git's form and in Subversion's.
_PATCH_FILE = re.compile(rb"^(?=diff --git |Index: )", re.MULTILINE)
_PATCH_NAME = re.compile(rb'^(?:---|\+\+\+) "?(?:[ab]/)?(.*?)"?(?:\t.*)?$')


def is_secret_name(path: bytes) -> bool:
    """Whether a file of that relative path holds secrets by its very name."""
    return _NAMED.search(path) is not None


@cache
def _set_of_forms() -> re2.Set:
    """All forms as one automaton; several threads may ask it at once."""
    # Imported here: most commands look into no file. It passes once over a text for all forms
    # together, in a time that no content makes longer, and without the interpreter's lock.
    import re2

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes, of which none is more than itself
    options.never_capture = True
    forms = re2.Set.SearchSet(options)
    for _, form in _FORMS:
        forms.Add(form)
    forms.Compile()
    return forms


def secret_in(content: bytes | memoryview) -> str:
    """What kind of secret stands in a text, `a GitHub token`; empty where none does.

    What holds a zero byte at its beginning is no text.
    """
    if b"\0" in bytes(content[:8192]):
        return ""
    found = _set_of_forms().Match(content)
    return _FORMS[min(found)][0] if found else ""


def may_hold_secrets(texts: memoryview) -> bool:
    """Whether `secret_in` may find something in texts with a zero byte between any two.

    False is certain: no form holds a zero byte, and to each it is an edge as a text's end is.
    """
    return _set_of_forms().Match(texts) is not None


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
