"""The layer of a tensor is read from its name."""

from __future__ import annotations

import pytest

from backupd.operations.diff import layer_prefix


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("model.layers.7.mlp.down_proj.weight", "model.layers.7"),
        ("blk.12.attn_q.weight", "blk.12"),
        ("state.0.exp_avg", "state.0"),
        ("encoder.3.sub.4.bias", "encoder.3"),
        ("lm_head.weight", "lm_head"),
        ("model.embed_tokens.weight", "model.embed_tokens"),
        ("weight", "weight"),
        ("", ""),
    ],
)
def test_the_prefix_ends_with_the_first_number(name: str, prefix: str) -> None:
    assert layer_prefix(name) == prefix
