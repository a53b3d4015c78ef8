"""What a file is to a model: by its name, by its tensors, or as the configuration says."""

from __future__ import annotations

from pathlib import Path

import pytest

from backupd.capture.containers import identify
from backupd.capture.containers.regions import Layout, TensorRegion
from backupd.capture.schemes import NAMES, OPEN_NAMES, Classifier
from backupd.errors import ConfigError
from backupd.policy.schemes import SCHEMES, Role

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "containers"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "versions.md"


def roles(path: str, layout: Layout | None = None, size: int = 1 << 20) -> set[str]:
    found = Classifier({}).classify(path.encode(), size, lambda: layout)
    assert found.reason
    return {role.value for role in found.roles}


def tensors(*names: str, kind: str = "pytorch") -> Layout:
    return Layout(kind, tuple(TensorRegion(n, "f32", (1,), 4 * i, 4) for i, n in enumerate(names)))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("checkpoint-500/optimizer.pt", "training"),
        ("checkpoint-500/scheduler.pt", "training"),
        ("checkpoint-500/rng_state_0.pth", "training"),
        ("checkpoint-500/trainer_state.json", "training"),
        ("checkpoint-500/model.safetensors", "weights"),
        ("checkpoint-500/model.safetensors.index.json", "weights"),
        ("global_step5/mp_rank_00_model_states.pt", "weights"),
        ("global_step5/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "training"),
        ("state/optimizer_0/__0_0.distcp", "training"),
        ("state/pytorch_model_fsdp_0/__0_0.distcp", "weights"),
        ("state/random_states_0.pkl", "training"),
        ("last.CKPT", "weights"),
        ("saved/saved_model.pb", "graph"),
        ("saved/variables/variables.data-00000-of-00001", "weights"),
        ("saved/variables/variables.index", "weights"),
        ("tf/checkpoint", "weights"),
        ("config.json", "configuration"),
        ("hparams.yaml", "configuration"),
        ("tokenizer_config.json", "tokenizer"),
        ("tokenizer.json", "tokenizer"),
        ("merges.txt", "tokenizer"),
        ("optimizer.py", "code"),
        ("requirements-dev.txt", "code"),
        ("README.md", "other"),
        ("logs/events.out.tfevents.1", "other"),
        ("all_results.json", "other"),
    ],
)
def test_names_tell_most_files(path: str, expected: str) -> None:
    assert roles(path) == {expected}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("model.keras", {"graph", "weights"}),
        ("model.h5", {"graph", "weights"}),
        ("model.weights.h5", {"weights"}),
        ("model.onnx", {"graph", "weights"}),
        ("m.gguf", {"graph", "weights", "tokenizer", "configuration"}),
    ],
)
def test_a_file_may_have_several_roles(path: str, expected: set[str]) -> None:
    assert roles(path) == expected


def test_tensors_tell_weights_from_the_state_of_an_optimizer() -> None:
    weights = tensors("fc1.weight", "fc1.bias", "momentum_encoder.weight")
    state = tensors("state.0.exp_avg", "state.0.exp_avg_sq", "state.1.momentum_buffer")
    both = tensors("state_dict.fc1.weight", "optimizer_states.0.state.0.exp_avg", "loss")
    for name in ("x.pt", "x.ckpt", "checkpoint.tar", "x.bin"):
        assert roles(name, weights) == {"weights"}
        assert roles(name, state) == {"training"}
        assert roles(name, both) == {"weights", "training"}


def test_a_large_file_of_any_name_is_told_by_what_it_is() -> None:
    assert roles("blobs/0a1b2c", tensors("w", kind="safetensors")) == {"weights"}
    assert roles("blobs/0a1b2c", Layout("gguf")) >= {"weights", "tokenizer"}
    assert roles("blobs/0a1b2c", tensors("w"), size=100) == {"other"}
    assert roles("data.zip", Layout("zip")) == {"other"}


def test_real_containers_are_told() -> None:
    def peeked(name: str) -> set[str]:
        data = (GOLDEN / name).read_bytes()

        def read_at(offset: int, size: int) -> bytes:
            return data[offset : offset + size]

        return roles("x.pt", identify(read_at, len(data), name.encode()))

    assert peeked("checkpoint.pt") == {"weights", "training"}
    assert peeked("model.safetensors") == {"weights"}
    assert peeked("model.h5") == {"graph", "weights"}
    assert peeked("model.keras") == {"graph", "weights"}


def test_the_configuration_says_more_than_the_name() -> None:
    classifier = Classifier({"weights": ["ema/*.dat"], "other": ["old/", "*.pt"]})

    def role(path: bytes) -> set[str]:
        return {role.value for role in classifier.classify(path, 10, lambda: None).roles}

    assert role(b"ema/a.dat") == {"weights"}
    assert role(b"x/old/model.safetensors") == {"other"}
    assert role(b"a.pt") == {"other"}
    assert role(b"a.pth") == {"weights"}
    assert role(b"\xff\xfe.safetensors") == {"weights"}
    with pytest.raises(ConfigError):
        Classifier({"weights": ["[z-a]"]})


def test_the_documents_name_every_pattern_and_scheme() -> None:
    page = PAGE.read_text()
    for _, line in NAMES:
        for pattern in line.split(", "):
            assert f"`{pattern}`" in page, pattern
    for pattern in OPEN_NAMES.split(", "):
        assert f"`{pattern}`" in page, pattern
    for scheme in SCHEMES:
        assert f"`{scheme}`" in page
    for role in Role:
        assert f"| {role.value} |" in page
