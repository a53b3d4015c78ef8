"""What a repair will do, decided from values alone; `operations.repair` carries it out.

What an offer names has not been read yet: it counts only when it was opened and its id compared,
and the next source is taken where it was not what it should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from backupd.repository import layout

HERE = "another copy on this target"


class Verb(StrEnum):
    """What is done with an object."""

    REPLACE = "replace"
    REWRITE = "rewrite"
    STORE = "store"
    INDEX = "index"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class PackDamage:
    """One pack that is not what it should be; `marked` says that prune will delete it."""

    pack_id: bytes
    problem: str
    marked: bool


@dataclass(frozen=True, slots=True)
class Damage:
    """All that was found: packs, needed blobs without a lasting copy, and other objects.

    `homes` says in which damaged packs a blob lies; `objects` has the problem of each other object
    by name, `superseded` names those that nothing needs; `unnamed` counts packs that no index
    object names.
    """

    packs: Sequence[PackDamage] = ()
    blobs: Sequence[bytes] = ()
    homes: Mapping[bytes, frozenset[bytes]] = field(default_factory=dict)
    objects: Mapping[str, str] = field(default_factory=dict)
    superseded: frozenset[str] = frozenset()
    unnamed: int = 0


@dataclass(frozen=True, slots=True)
class Offers:
    """Who may have it, in words, nearest first: packs and objects under the same name, blobs."""

    packs: Mapping[bytes, Sequence[str]] = field(default_factory=dict)
    blobs: Mapping[bytes, Sequence[str]] = field(default_factory=dict)
    objects: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do, why, and from what; `object_name` is a folder's where several are meant."""

    verb: Verb
    object_name: str
    reason: str
    sources: tuple[str, ...] = ()
    blobs: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """The actions in the order in which they are safe, and what nobody offers."""

    actions: tuple[Action, ...]
    lost_blobs: tuple[bytes, ...]
    lost_objects: tuple[str, ...]

    def of(self, verb: Verb) -> list[Action]:
        """The actions of a kind."""
        return [action for action in self.actions if action.verb is verb]


def plan_repair(damage: Damage, offers: Offers) -> RepairPlan:
    """Decide.

    A pack comes back under its name where another target has it. Else what can be read of it,
    and what others have of it, goes to new packs, and it is marked, so that prune deletes it
    after the grace; one that is marked already is left to prune. An object that only saves time
    is dropped after what it said is written anew.
    """
    replace, rewrite = [], []
    for pack in damage.packs:
        if pack.marked:
            continue
        name = layout.pack_name(pack.pack_id)
        sources = tuple(offers.packs.get(pack.pack_id, ()))
        if sources:
            replace.append(Action(Verb.REPLACE, name, pack.problem, sources))
        else:
            rewrite.append(Action(Verb.REWRITE, name, pack.problem))
    back = {
        pack.pack_id for pack in damage.packs if not pack.marked and offers.packs.get(pack.pack_id)
    }
    # What comes back with its pack needs no other.
    blobs = [blob for blob in damage.blobs if back.isdisjoint(damage.homes.get(blob, ()))]
    store = [
        Action(Verb.STORE, layout.PACKS, "blobs that snapshots need", sources, some)
        for sources, some in _by_sources(blobs, offers).items()
    ]
    objects, drop, lost = [], [], []
    index = bool(damage.unnamed)
    for name, problem in sorted(damage.objects.items()):
        if name.startswith(layout.INDEX):
            index = True
        if name.startswith((layout.INDEX, layout.TOMBSTONES)) or name in damage.superseded:
            drop.append(Action(Verb.DROP, name, problem))
        elif sources := tuple(offers.objects.get(name, ())):
            objects.append(Action(Verb.REPLACE, name, problem, sources))
        else:
            lost.append(name)
    written = [Action(Verb.INDEX, layout.INDEX, "packs that no index object names")]
    return RepairPlan(
        # Snapshots come after what they need, and what is dropped after what stands in for it.
        (*replace, *store, *rewrite, *(written if index else ()), *objects, *drop),
        tuple(blob for blob in blobs if not offers.blobs.get(blob)),
        tuple(lost),
    )


def _by_sources(blobs: Sequence[bytes], offers: Offers) -> dict[tuple[str, ...], tuple[bytes, ...]]:
    grouped: dict[tuple[str, ...], list[bytes]] = {}
    for blob_id in blobs:
        sources = tuple(offers.blobs.get(blob_id, ()))
        if sources:
            grouped.setdefault(sources, []).append(blob_id)
    return {sources: tuple(found) for sources, found in grouped.items()}
