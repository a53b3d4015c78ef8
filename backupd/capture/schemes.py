"""What a file is to a model: by its name, and where that leaves it open by its tensors.

Pure but for the layout that it asks for. The patterns are those of docs/versions.md; a test
holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backupd.capture.exclude import Exclusion
from backupd.policy.schemes import Role

if TYPE_CHECKING:
    from backupd.capture.containers.regions import Layout

Peek = Callable[[], "Layout | None"]
"""Gives the layout of the file in question, None where it is opaque or cannot be read."""

_W, _T, _G, _K = Role.WEIGHTS, Role.TRAINING, Role.GRAPH, Role.TOKENIZER
_CONF, _CODE, _OTHER = Role.CONFIGURATION, Role.CODE, Role.OTHER

# Patterns of last path components, in lower case; of a line with `/` also of the folder. The
# first that fits decides. Sources: transformers (trainer.py, tokenization_utils_base.py,
# utils/__init__.py), accelerate (utils/constants.py), DeepSpeed (runtime/engine.py,
# checkpoint/constants.py), TensorFlow's SavedModel and tensor bundle, Keras 3 (saving_lib.py).
NAMES: Sequence[tuple[tuple[Role, ...], str]] = (
    ((_CODE,), "*.py, *.ipynb, *.sh, *.c, *.cc, *.cpp, *.cu, *.cuh, *.h, *.hpp, *.rs, *.jl, *.r"),
    ((_CODE,), "requirements*.txt, pyproject.toml, setup.cfg, environment.yml, environment.yaml"),
    ((_CODE,), "dockerfile*, makefile, *.lock, pipfile"),
    ((_T,), "optimizer*/**, optim/**, *optim_states.pt, *.pdopt"),
    ((_T,), "optimizer*.pt, optimizer*.pth, optimizer*.bin, optimizer*.safetensors, optim*.npz"),
    ((_T,), "scheduler*.pt, scheduler*.bin, lr_scheduler*.pt, scaler.pt, scaler_*.pt"),
    ((_T,), "rng_state*, random_states_*, trainer_state.json, training_args.bin, sampler*.bin"),
    ((_W,), "*.safetensors.index.json, *.bin.index.json, *.index, checkpoint, latest, .metadata"),
    ((_W,), "*.weights.h5, *.weights.hdf5"),
    ((_K,), "tokenizer.*, tokenizer_config.json, special_tokens_map.json, added_tokens.json"),
    ((_K,), "vocab.json, vocab.txt, *.vocab, merges.txt, *.spm, spiece.model, sentencepiece*"),
    ((_K,), "*.tiktoken, chat_template.*, *preprocessor_config.json, processor_config.json"),
    ((_G,), "saved_model.pb, saved_model.pbtxt, fingerprint.pb, keras_metadata.pb, *.meta"),
    ((_G,), "model.json, architecture.json, *.prototxt"),
    ((_CONF,), "*config*.json, *params*.json, *args*.json, *settings*.json, *.yaml, *.yml"),
    ((_CONF,), "*.toml, *.ini, *.cfg, *.gin"),
    ((_G, _W), "*.keras, *.h5, *.hdf5, *.onnx, *.onnx_data, *.tflite, *.torchscript, *.pb"),
    ((_G, _W), "*.pkl, *.pickle, *.joblib, *.ubj, *.bst, *.xgb, *.mlmodel, *.pdmodel"),
    ((_G, _W, _K, _CONF), "*.gguf, *.ggml"),
    ((_W,), "*.data-?????-of-?????, *.msgpack, *.pdparams, *.npy"),
)  # fmt: skip

# Names that may hold weights, training state or both: the tensors tell. Without any, weights.
OPEN_NAMES = "*.pt, *.pth, *.ckpt, *.bin, *.tar, *.safetensors, *.npz, *.distcp, *.pth.tar"

# What optimizers of torch, optax and Keras call their states, and how frameworks file them.
_TRAINING_WORD = re.compile(
    r"(?:max_)?exp_avg(?:_sq)?|exp_inf|square_avg|grad_avg|acc_delta|momentum(?:_buffer)?"
    r"|opt_state|optim(?:izer)?(?:s|_1)?(?:_state(?:s|_dict)?)?"
    r"|(?:lr_)?schedulers?(?:_state_dict)?|(?:[a-z]+_)?rng_states?"
)
_WORDS = re.compile(r"[^./\[\]'\" ]+")
_KINDS: Mapping[str, tuple[Role, ...]] = {
    "hdf5": (_G, _W),
    "keras": (_G, _W),
    "gguf": (_G, _W, _K, _CONF),
    "tensorflow": (_W,),
    "npy": (_W,),
}
_SNIFFED_BYTES = 64 * 1024
"""A file of a name that is not known is looked into from this size on: no smaller one is one
that a model needs for its numbers."""


@dataclass(frozen=True, slots=True)
class Classified:
    """The roles of a file, and why: words that go after `because`."""

    roles: frozenset[Role]
    reason: str


class Classifier:
    """Tells the roles of files; patterns of the configuration come before those known here."""

    def __init__(self, overrides: Mapping[str, Sequence[str]]) -> None:
        """`overrides` maps names of roles to gitignore-style patterns, the first that fits counts.

        Raises `ConfigError` for a pattern that is none.
        """
        self._overrides = [(Role(name), Exclusion(tuple(p))) for name, p in overrides.items()]

    def classify(self, path: bytes, size: int, peek: Peek) -> Classified:
        """What the file at `path` (relative to the model) of so many bytes is."""
        for role, patterns in self._overrides:
            if patterns.excludes(path, folder=False) or _below(patterns, path):
                return Classified(frozenset({role}), "a pattern of the configuration says so")
        text = path.decode("utf-8", "replace").lower()
        name = text.rpartition("/")[2]
        number = min(_number(_BY_NAME.fullmatch(name)), _number(_BY_FOLDER.fullmatch(text)))
        if number < len(_PATTERNS):
            roles, pattern = _PATTERNS[number]
            return Classified(frozenset(roles), f"its name fits {pattern}")
        if _OPEN.fullmatch(name):
            return _by_tensors(peek()) or Classified(frozenset({_W}), "of its ending")
        if size >= _SNIFFED_BYTES:
            layout = peek()
            if layout is not None and layout.kind != "zip":
                found = _by_tensors(layout)
                return found or Classified(frozenset({_W}), f"it is a {layout.kind} file")
        return Classified(frozenset({_OTHER}), "nothing is known of it")


def _by_tensors(layout: Layout | None) -> Classified | None:
    if layout is None:
        return None
    if layout.kind in _KINDS:
        return Classified(frozenset(_KINDS[layout.kind]), f"it is a {layout.kind} file")
    if not layout.tensors:
        return None
    training = sum(_is_training(tensor.name) for tensor in layout.tensors)
    if training == len(layout.tensors):
        return Classified(frozenset({_T}), "all its tensors are of an optimizer")
    if training:
        return Classified(frozenset({_W, _T}), "some of its tensors are of an optimizer")
    return Classified(frozenset({_W}), "it holds tensors")


def _is_training(name: str) -> bool:
    return any(_TRAINING_WORD.fullmatch(word) for word in _WORDS.findall(name.lower()))


def _below(patterns: Exclusion, path: bytes) -> bool:
    """Whether a folder above `path` fits: a pattern `logs/` is meant for what is in it."""
    parts = path.split(b"/")[:-1]
    return any(
        patterns.excludes(b"/".join(parts[:depth]), folder=True)
        for depth in range(1, len(parts) + 1)
    )


def _split(line: str) -> Iterable[str]:
    return line.split(", ")


def _regex(pattern: str) -> str:
    """A pattern as a regular expression: `*` and `?` stay within a name."""
    body = re.escape(pattern).replace(r"\?", "[^/]")
    return body.replace(r"/\*\*", "/.*").replace(r"\*", "[^/]*")


def _one_of(numbered: Iterable[tuple[int, str]]) -> re.Pattern[str]:
    """One expression for all patterns, the first that fits in a group named by its number."""
    parts = "|".join(f"(?P<n{number}>{_regex(pattern)})" for number, pattern in numbered)
    return re.compile(parts, re.DOTALL)


def _number(match: re.Match[str] | None) -> int:
    return len(_PATTERNS) if match is None else int((match.lastgroup or "n0")[1:])


_PATTERNS = [(roles, pattern) for roles, line in NAMES for pattern in _split(line)]
_NUMBERED = [(number, pattern) for number, (_, pattern) in enumerate(_PATTERNS)]
_BY_NAME = _one_of((number, pattern) for number, pattern in _NUMBERED if "/" not in pattern)
_BY_FOLDER = re.compile(
    rf"(?:.*/)?(?:{_one_of(item for item in _NUMBERED if '/' in item[1]).pattern})", re.DOTALL
)
_OPEN = re.compile("|".join(map(_regex, _split(OPEN_NAMES))), re.DOTALL)
