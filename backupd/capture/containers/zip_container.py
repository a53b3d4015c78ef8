"""Zip archives that hold tensors: torch's, numpy's and Keras's, several of torch's end to end as
torch.distributed.checkpoint writes them, and any other with stored members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backupd.capture.containers.bounded import BoundedFile, MalformedError
from backupd.capture.containers.npy import npy_region
from backupd.capture.containers.regions import (
    MAX_TENSORS,
    OPAQUE,
    SMALLEST_OPAQUE_BYTES,
    Layout,
    TensorRegion,
    make_layout,
)
from backupd.capture.containers.torch_archive import torch_regions, torch_root
from backupd.capture.containers.torch_pickle import MAX_OPCODES
from backupd.capture.containers.zip_archive import Archive, Member, read_archive

_MAX_ARCHIVES = 10_000
_KERAS_MEMBERS = {"config.json", "metadata.json", "model.weights.h5"}


def parse_zip(file: BoundedFile) -> Layout:
    """Return the layout of `file`. Raises MalformedError, TruncatedError."""
    archives = _archives(file)
    if len(archives) > 1:
        return _distributed(file, archives)
    members = archives[0].members
    root = torch_root(members)
    if root is not None:
        regions, note, _ = torch_regions(file, members, root)
        return make_layout("pytorch", regions, file.size, note)
    names = {member.name for member in members}
    if names and all(name.endswith(".npy") for name in names):
        return make_layout("npz", _arrays(file, members), file.size, _note(members))
    kind = "keras" if names >= _KERAS_MEMBERS else "zip"
    return make_layout(kind, map(_opaque, _worth_a_cut(members)), file.size, _note(members))


def _archives(file: BoundedFile) -> list[Archive]:
    """Return the archives that fill `file` end to end, in their order."""
    archives = [read_archive(file, file.size)]
    total = len(archives[0].members)
    while archives[-1].start:
        archives.append(read_archive(file, archives[-1].start))
        total += len(archives[-1].members)
        if len(archives) > _MAX_ARCHIVES or total > MAX_TENSORS:
            raise MalformedError("more archives than are read")
    return archives[::-1]


def _distributed(file: BoundedFile, archives: Sequence[Archive]) -> Layout:
    """Return the layout of several torch archives in one file.

    Their names are in another file, `.metadata`; here they are named by their number, which
    stays the same from checkpoint to checkpoint.
    """
    regions: list[TensorRegion] = []
    opcodes = MAX_OPCODES
    for number, archive in enumerate(archives):
        root = torch_root(archive.members)
        if root is None:
            raise MalformedError("an archive behind another that torch did not write")
        found, _, opcodes = torch_regions(file, archive.members, root, opcodes)
        regions.extend(replace(region, name=f"{number}.{region.name}") for region in found)
    return make_layout("pytorch-distributed", regions, file.size)


def _arrays(file: BoundedFile, members: Sequence[Member]) -> list[TensorRegion]:
    regions = []
    for member in members:
        if member.stored:
            name = member.name.removesuffix(".npy")
            try:
                regions.append(npy_region(file, member.data_offset, member.size_bytes, name))
            except MalformedError:
                regions.extend(map(_opaque, _worth_a_cut([member])))
    return regions


def _worth_a_cut(members: Sequence[Member]) -> list[Member]:
    return [
        member for member in members if member.stored and member.size_bytes >= SMALLEST_OPAQUE_BYTES
    ]


def _opaque(member: Member) -> TensorRegion:
    return TensorRegion(
        member.name, OPAQUE, (member.size_bytes,), member.data_offset, member.size_bytes
    )


def _note(members: Sequence[Member]) -> str:
    packed = sum(not member.stored for member in members)
    return f"{packed} of {len(members)} members are compressed" if packed else ""
