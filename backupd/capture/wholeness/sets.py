"""Files that make one checkpoint together: whole when all are there and the last one was written.

Each rule looks at one folder's names and says which sets it holds; what it needs of a small file's
content it reads through `read`. A set is torn as soon as one of its members is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import NamedTuple

from backupd.capture.containers.bounded import (
    BoundedFile,
    LimitError,
    MalformedError,
    TruncatedError,
)
from backupd.capture.folders import name_of, parent_of, shown
from backupd.capture.large_json import has_too_many_values
from backupd.capture.wholeness.names import (
    DEEPSPEED_RANK,
    DISTRIBUTED,
    DISTRIBUTED_METADATA,
    LATEST,
    SAVED_MODEL,
    SHARD,
    SHARD_INDEX,
    TENSORFLOW_DATA,
    TENSORFLOW_INDEX,
    TRAINER_FOLDER,
    TRAINER_MARKS,
    TRAINER_STATE,
)
from backupd.capture.wholeness.tensorflow import data_sizes
from backupd.capture.wholeness.verdict import WHOLE, Judgement, Verdict, doubtful, torn

_MAX_JSON_BYTES = 64 << 20
_MAX_LATEST_BYTES = 4096
_INDEXED_SUFFIXES = (b".safetensors", b".bin")


class Member(NamedTuple):
    """A file of a checkpoint as the scan found it; times in nanoseconds since the epoch.

    `changed` says that it or its folder did since the snapshot before, `known` that that has a
    file of this path, and `rewritten` that it is another one.
    """

    path: bytes
    size: int
    mtime_ns: int
    changed: bool
    known: bool = False
    rewritten: bool = False


Folder = Mapping[bytes, Member]
"""The files of one folder that a checkpoint may be made of, by name."""

Read = Callable[[bytes], BoundedFile | None]
"""Opens the file at a path; None where it is gone. What it gives may raise MalformedError."""


class CheckpointSet(NamedTuple):
    """Members that are whole only together. With a `folder` all that lies below it belongs too."""

    members: frozenset[bytes]
    judgement: Judgement
    folder: bytes = b""


def judge_sets(
    folders: Mapping[bytes, Folder], read: Read, lost: Mapping[bytes, Set[bytes]] | None = None
) -> list[CheckpointSet]:
    """The sets with a changed member in the model's `folders`, by relative path.

    `lost` are names, by folder, that the snapshot before has and that are gone.
    """
    found: list[CheckpointSet] = []
    for path, folder in folders.items():
        found += _without_data(path, folder, (lost or {}).get(path, frozenset()))
        for rule in (_shards, _tensorflow, _saved_model, _trainer, _ranks, _distributed):
            found += rule(path, folder, folders, read)
    changed = {m.path for folder in folders.values() for m in folder.values() if m.changed}
    return [one for one in found if one.members & changed]


def _shards(
    path: bytes, folder: Folder, folders: Mapping[bytes, Folder], read: Read
) -> Iterator[CheckpointSet]:
    """`model-00001-of-00003.safetensors` and what `model.safetensors.index.json` names."""
    series: dict[bytes, tuple[int, list[int], list[Member]]] = {}
    for name, member in folder.items():
        shard = SHARD.match(name)
        if shard is not None:
            key = shard[1] + shard[4] + SHARD_INDEX
            count, numbers, members = series.setdefault(key, (int(shard[3]), [], []))
            numbers.append(int(shard[2]))
            members.append(member)
    for name in folder:
        if name.endswith(SHARD_INDEX):
            series.setdefault(name, (0, [], []))
    for key, (count, numbers, members) in series.items():
        index = folder.get(key)
        judgement = WHOLE
        lacking = count - len(set(numbers))
        if lacking > 0:
            judgement = torn(f"lacks {lacking} of its {count} shards")
        elif index is not None:
            named = _index_names(read, index.path)
            if named is None:
                judgement = torn("has an index that does not end")
            else:
                members = [*members, *(folder[n] for n in named if n in folder)]
                gone = sorted(n for n in named if n not in folder)
                if gone:
                    judgement = torn(f"lacks the shard {shown(gone[0])}")
                else:
                    judgement = _in_order(
                        members, index, "has shards that are newer than its index"
                    )
        elif members and members[0].path.endswith(_INDEXED_SUFFIXES):
            judgement = doubtful("has no index yet")
        every = [*members, *([index] if index is not None else [])]
        yield CheckpointSet(_paths(every), judgement)


def _index_names(read: Read, path: bytes) -> set[bytes] | None:
    """The shards that an index names; none where it is of another kind, None where broken."""
    value = _json(read, path)
    if value is None:
        return None
    names = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(names, dict):
        return set()
    return {_encoded(str(name)) for name in names.values()}


def _encoded(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # JSON can name half a character, of which no byte of a name makes one.
        return name.encode("utf-8", "surrogatepass")


def _tensorflow(
    path: bytes, folder: Folder, folders: Mapping[bytes, Folder], read: Read
) -> Iterator[CheckpointSet]:
    """`ckpt-1.index` and as many `ckpt-1.data-00000-of-00001` as it says, each as long."""
    series: dict[bytes, tuple[int, dict[int, Member]]] = {}
    for name, member in folder.items():
        data = TENSORFLOW_DATA.match(name)
        if data is not None:
            series.setdefault(data[1], (int(data[3]), {}))[1][int(data[2])] = member
    for prefix, (count, shards) in series.items():
        index = folder.get(prefix + TENSORFLOW_INDEX)
        members = list(shards.values())
        if index is None:
            yield CheckpointSet(_paths(members), torn("has no index"))
            continue
        yield CheckpointSet(_paths([*members, index]), _judge_bundle(read, index, count, shards))


def _judge_bundle(read: Read, index: Member, count: int, shards: Mapping[int, Member]) -> Judgement:
    lacking = count - len(shards)
    if lacking > 0:
        return torn(f"lacks {lacking} of its {count} data files")
    file = read(index.path)
    if file is None:
        return torn("has no index")
    try:
        least = data_sizes(file)
    except LimitError:
        return WHOLE
    except MalformedError as error:
        return torn(f"has an index that is not whole: {error}")
    for number, size in least.items():
        have = shards[number].size if number in shards else 0
        if have < size:
            return torn(f"has {have} of {size} bytes in its data file {number}")
    return _in_order(shards.values(), index, "has data that is newer than its index")


def _saved_model(
    path: bytes, folder: Folder, folders: Mapping[bytes, Folder], read: Read
) -> Iterator[CheckpointSet]:
    """A SavedModel: `variables/` first, then the graph."""
    if name_of(path) != b"variables" or not any(TENSORFLOW_DATA.match(n) for n in folder):
        return
    above = parent_of(path)
    outer = folders.get(above, {})
    graphs = [outer[name] for name in SAVED_MODEL if name in outer]
    members = _paths([*folder.values(), *outer.values()] if graphs else folder.values())
    judgement = WHOLE
    if not graphs:
        judgement = torn("has no saved_model.pb")
    else:
        graph = max(graphs, key=lambda member: member.mtime_ns)
        reason = "has variables that are newer than its graph"
        judgement = _in_order(folder.values(), graph, reason)
    yield CheckpointSet(members, judgement, above)


def _trainer(
    path: bytes, folder: Folder, folders: Mapping[bytes, Folder], read: Read
) -> Iterator[CheckpointSet]:
    """transformers' `checkpoint-500`, into which `trainer_state.json` is written last."""
    if not TRAINER_FOLDER.match(name_of(path)) or not folder:
        return
    state = folder.get(TRAINER_STATE)
    others = [member for member in folder.values() if member is not state]
    judgement = WHOLE
    if state is None:
        marked = any(mark in folder for mark in TRAINER_MARKS)
        judgement = torn("has no trainer_state.json, which comes last")
        if not marked:
            judgement = doubtful("has no trainer_state.json, which transformers writes last")
    elif _json(read, state.path) is None:
        judgement = torn("has a trainer_state.json that does not end")
    elif any(member.mtime_ns > state.mtime_ns for member in others):
        judgement = doubtful("has files that are newer than its trainer_state.json")
    yield CheckpointSet(_paths(folder.values()), judgement, path)


def _ranks(
    path: bytes, folder: Folder, folders: Mapping[bytes, Folder], read: Read
) -> Iterator[CheckpointSet]:
    """DeepSpeed's `global_step500`: a file of every rank, then `latest` beside it names it."""
    ranks: dict[bytes, set[int]] = {}
    members = []
    for name, member in folder.items():
        rank = DEEPSPEED_RANK.match(name)
        if rank is not None:
            members.append(member)
            ranks.setdefault(rank[3] + b" " + rank[2], set()).add(int(rank[1] or 0))
            ranks.setdefault(rank[3], set()).add(int(rank[2]))
    if not members:
        return
    judgement = WHOLE
    if any(len(numbers) <= max(numbers) for numbers in ranks.values()):
        judgement = torn("lacks the file of a rank")
    else:
        outer = folders.get(parent_of(path), {})
        latest = next((outer[name] for name in LATEST if name in outer), None)
        if latest is None:
            judgement = doubtful("is named by no file `latest` yet")
        elif not _names(read, latest.path, name_of(path)) and latest.mtime_ns < max(
            member.mtime_ns for member in members
        ):
            judgement = torn("is not named by the file `latest`, which comes last")
    yield CheckpointSet(_paths(members), judgement, path)


def _names(read: Read, path: bytes, folder: bytes) -> bool:
    """Whether the file `latest` at `path` names `folder`."""
    file = read(path)
    if file is None or file.size > _MAX_LATEST_BYTES:
        return False
    try:
        text = file.read(0, file.size).strip()
    except MalformedError:
        return False
    return text == folder or (text.isdigit() and folder == b"iter_%07d" % int(text))


def _distributed(
    path: bytes, folder: Folder, folders: Mapping[bytes, Folder], read: Read
) -> Iterator[CheckpointSet]:
    """torch.distributed.checkpoint, of FSDP and others: every rank's files, then `.metadata`."""
    members = [member for name, member in folder.items() if DISTRIBUTED.match(name)]
    if not members:
        return
    metadata = folder.get(DISTRIBUTED_METADATA)
    if metadata is None:
        yield CheckpointSet(_paths(members), torn("has no .metadata, which comes last"), path)
        return
    judgement = _in_order(members, metadata, "has files that are newer than its .metadata")
    yield CheckpointSet(_paths([*members, metadata]), judgement, path)


def _in_order(members: Iterable[Member], last: Member, reason: str) -> Judgement:
    """Whether `last`, which is written last, is no older than the others.

    Over a checkpoint that was there before, they are those of a save that did not come to its
    end. In a new one the order may be that in which somebody copied the files.
    """
    if all(member.mtime_ns <= last.mtime_ns for member in members):
        return WHOLE
    return torn(reason) if last.known else doubtful(reason)


def _without_data(path: bytes, folder: Folder, lost: Set[bytes]) -> Iterator[CheckpointSet]:
    """Checkpoints that are being deleted: what comes last is still there, the data is not."""
    metadata = folder.get(DISTRIBUTED_METADATA)
    if metadata is not None and not metadata.rewritten and any(map(DISTRIBUTED.match, lost)):
        members = [member for name, member in folder.items() if DISTRIBUTED.match(name)]
        yield CheckpointSet(_paths([metadata, *members]), torn("has lost its data"), path)
    for name in lost:
        data = TENSORFLOW_DATA.match(name)
        index = folder.get(data[1] + TENSORFLOW_INDEX) if data is not None else None
        if index is not None and not index.rewritten:
            yield CheckpointSet(_paths([index]), torn("has lost its data"))


def _json(read: Read, path: bytes) -> object | None:
    """What a JSON file holds; None where it is gone or does not end."""
    file = read(path)
    if file is None:
        return None
    if file.size > _MAX_JSON_BYTES:
        return {}
    try:
        text = file.read(0, file.size)
        value: object = {} if has_too_many_values(text) else json.loads(text)
    except (ValueError, RecursionError, TruncatedError):
        return None
    return value


def _paths(members: Iterable[Member]) -> frozenset[bytes]:
    return frozenset(member.path for member in members)


def spread(
    files: Mapping[bytes, Judgement], sets: Iterable[CheckpointSet]
) -> tuple[dict[bytes, Judgement], dict[bytes, Judgement]]:
    """Judgements of files and of folders, once every set is as bad as its worst member.

    Sets may overlap, as a sharded model in a trainer's folder does.
    """
    judged = dict(files)
    folders: dict[bytes, Judgement] = {}
    waiting = list(sets)
    again = True
    while again:
        again = False
        for one in waiting:
            inner = [folders[f] for f in folders if one.folder and _below(f, one.folder)]
            reasons = [_of_set(one.judgement, b""), *inner]
            reasons += [_of_set(judged[path], path) for path in one.members if path in judged]
            worst = max(reasons, key=_badness)
            if worst.verdict is Verdict.WHOLE:
                continue
            for path in one.members:
                if _badness(judged.get(path, WHOLE)) < _badness(worst):
                    judged[path] = worst
                    again = True
            if one.folder and _badness(folders.get(one.folder, WHOLE)) < _badness(worst):
                folders[one.folder] = worst
                again = True
    return judged, folders


_BELONGS = "belongs to a checkpoint"


def _of_set(judgement: Judgement, path: bytes) -> Judgement:
    """What a set's own flaw, or that of its member at `path`, says of the other members."""
    if judgement.verdict is Verdict.WHOLE or judgement.reason.startswith(_BELONGS):
        return judgement
    whose = f"whose {shown(name_of(path))}" if path else "that"
    return Judgement(judgement.verdict, f"{_BELONGS} {whose} {judgement.reason}")


_ORDER = (Verdict.WHOLE, Verdict.DOUBTFUL, Verdict.TORN)


def _badness(judgement: Judgement) -> int:
    return _ORDER.index(judgement.verdict)


def _below(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder + b"/")
