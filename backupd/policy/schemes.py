"""Which part of a model folder each scheme keeps: roles of files, and the roles of a scheme."""

from __future__ import annotations

import enum
from collections.abc import Mapping

EVERYTHING = "everything"


class Role(enum.Enum):
    """What a file is to a model; the value is its name in configurations and snapshots."""

    WEIGHTS = "weights"
    """The numbers that were learnt."""
    TRAINING = "training"
    """What only going on with the training needs: optimizer, scheduler, random state."""
    GRAPH = "graph"
    """The model's structure, where a file says it."""
    TOKENIZER = "tokenizer"
    """How inputs become numbers."""
    CONFIGURATION = "configuration"
    """What the model and its training were set to."""
    CODE = "code"
    """Source code, and what it needs installed."""
    OTHER = "other"
    """Logs, figures, data, and whatever is not known."""


SCHEMES: Mapping[str, frozenset[Role]] = {
    "model": frozenset({Role.GRAPH, Role.TOKENIZER, Role.CONFIGURATION}),
    "params": frozenset({Role.WEIGHTS}),
    "model+params": frozenset({Role.GRAPH, Role.TOKENIZER, Role.CONFIGURATION, Role.WEIGHTS}),
    "code+params": frozenset({Role.CODE, Role.CONFIGURATION, Role.WEIGHTS}),
    EVERYTHING: frozenset(Role),
}
