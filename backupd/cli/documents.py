"""The JSON form of every value that a command answers: the names here are a promise to scripts.

Fields may be added; none is renamed or dropped. Sizes are bytes, durations seconds, times
ISO 8601 in UTC.
"""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any

from backupd.cli.documents_code import code_facts, source_changes
from backupd.cli.formatting import utc_time

if TYPE_CHECKING:
    from backupd.operations.describe import SnapshotStorage, Storage
    from backupd.operations.diff_configs import ConfigChange
    from backupd.operations.diff_files import FileChange
    from backupd.operations.diff_numbers import Figures
    from backupd.operations.diff_report import DiffReport, LayerChange, TensorChange
    from backupd.operations.reports import (
        CheckReport,
        Finding,
        ForgetItem,
        ForgetReport,
        PlannedFile,
        PruneReport,
        RestoreReport,
        SnapshotInfo,
        SnapshotReport,
        TargetResult,
    )
    from backupd.repository.danger import Danger
    from backupd.repository.snapshots import LeftOut
    from backupd.repository.tree import TreeEntry

Document = dict[str, Any]

FILE_TYPES = {"f": "file", "d": "folder", "l": "symlink", "h": "hardlink"}


def snapshot(info: SnapshotInfo) -> Document:
    """One snapshot, as `list` and `show` give it."""
    return {
        "name": info.name,
        "id": info.id,
        "host": info.host,
        "model": info.model,
        "version": info.version,
        "time": utc_time(info.time),
        "root": text(info.root),
        "parent": info.parent or None,
        "project": info.project or None,
        "scheme": info.scheme,
        "step": info.step,
        "epoch": info.epoch,
        "labels": dict(info.labels),
        "metrics": dict(info.metrics),
        "file_count": info.file_count,
        "size_bytes": info.size_bytes,
        "added_bytes": info.added_bytes,
        "stored_bytes": info.stored_bytes,
        "duration_seconds": info.duration_seconds,
        "incomplete": [text(path) for path in info.incomplete],
        "skipped": [text(path) for path in info.skipped],
        "targets": list(info.targets),
        "code": code_facts(info.code) or None,
        "findings": dangers(info.findings),
    }


def left_out(part: LeftOut) -> Document:
    """What a scheme left out of one role, with some of the paths."""
    return {
        "role": part.role,
        "files": part.files,
        "size_bytes": part.size_bytes,
        "paths": [text(path) for path in part.paths],
    }


def dangers(findings: tuple[Danger, ...]) -> list[Document]:
    """Files that may run code when they are loaded."""
    return [{"path": found.path, "level": found.level, "what": found.what} for found in findings]


def target_result(result: TargetResult) -> Document:
    """What became of one snapshot on one target."""
    return {
        "target": result.target,
        "model": result.model or None,
        "version": result.version,
        "stored_bytes": result.stored_bytes,
        "pending": result.pending,
        "renumbered_from": result.was or None,
        "error": result.error or None,
    }


def snapshot_report(report: SnapshotReport) -> Document:
    """The end of one model's snapshot."""
    return {
        "model": report.model,
        "unchanged": report.unchanged,
        "partial": report.partial,
        "snapshot": snapshot(report.snapshot) if report.snapshot else None,
        "targets": [target_result(result) for result in report.targets],
        "notes": list(report.notes),
        "incomplete": [text(path) for path in report.incomplete],
        "error": None,
    }


def restore_report(report: RestoreReport) -> Document:
    """The end of one restore."""
    return {
        "restored_files": report.restored_files,
        "restored_bytes": report.restored_bytes,
        "skipped_files": report.skipped_files,
        "failed": [
            {"path": text(path), "reason": reason} for path, reason in report.failed.items()
        ],
        "notes": list(report.notes),
        "findings": dangers(report.findings),
    }


def planned_file(planned: PlannedFile) -> Document:
    """One line of `restore --dry-run`."""
    return {
        "path": text(planned.path),
        "action": planned.action,
        "size_bytes": planned.size_bytes,
    }


def entry(item: TreeEntry) -> Document:
    """One path of a snapshot; `path_base64` is there where the name is not UTF-8."""
    path = item.path.decode("utf-8", "replace")
    shown: Document = {
        "path": path,
        "type": FILE_TYPES[item.type.value],
        "mode": f"{item.metadata.mode & 0o7777:04o}",
        "uid": item.metadata.uid,
        "gid": item.metadata.gid,
        "user": item.metadata.user,
        "group": item.metadata.group,
        "size_bytes": item.metadata.size_bytes,
        "mtime": utc_time(item.metadata.mtime_ns / 1e9),
        "mtime_ns": item.metadata.mtime_ns,
        "content_hash": item.content_hash.hex() or None,
    }
    if item.link:
        shown["link"] = item.link.decode("utf-8", "replace")
    if path.encode() != item.path:
        shown["path_base64"] = base64.b64encode(item.path).decode("ascii")
    return shown


def finding(found: Finding) -> Document:
    """One thing that check found."""
    return {
        "target": found.target,
        "object": found.object_name,
        "problem": found.problem,
        "harmless": found.harmless,
        "snapshots": list(found.snapshots),
        "files": [text(path) for path in found.files],
    }


def check_report(report: CheckReport) -> Document:
    """The end of one check of one target."""
    return {
        "target": report.target,
        "clean": report.clean,
        "snapshots": report.snapshots,
        "packs": report.packs,
        "blobs": report.blobs,
        "read_bytes": report.read_bytes,
        "findings": [finding(found) for found in report.findings],
        "error": None,
    }


def forget_item(item: ForgetItem) -> Document:
    """One snapshot on one target with the reasons that keep it."""
    return {
        "target": item.target,
        "snapshot": snapshot(item.snapshot),
        "reasons": list(item.reasons),
    }


def forget_report(report: ForgetReport) -> Document:
    """What forget did, or would do."""
    return {
        "dry_run": report.dry_run,
        "kept": [forget_item(item) for item in report.kept],
        "forgotten": [forget_item(item) for item in report.forgotten],
        "unreachable": dict(report.unreachable),
        "append_only": list(report.append_only),
    }


def prune_report(report: PruneReport) -> Document:
    """What prune did on one target, or would do."""
    return {
        "target": report.target,
        "dry_run": report.dry_run,
        "packs_total": report.packs_total,
        "packs_marked": report.packs_marked,
        "packs_deleted": report.packs_deleted,
        "packs_repacked": report.packs_repacked,
        "marked_bytes": report.marked_bytes,
        "deleted_bytes": report.deleted_bytes,
        "repacked_bytes": report.repacked_bytes,
        "unmarked": report.unmarked,
        "purged_bytes": report.purged_bytes,
        "waiting_bytes": report.waiting_bytes,
        "notes": list(report.notes),
        "error": None,
    }


def snapshot_storage(described: SnapshotStorage) -> Document:
    """How a snapshot is stored; tensors are there where they were asked for."""
    return {
        "total": storage(described.total),
        "kinds": [
            {
                "container": kind.container or None,
                "kind": kind.kind,
                "count": kind.count,
                **storage(kind.storage),
            }
            for kind in described.kinds
        ],
        "file_count": described.file_count,
        "files": [
            {
                "path": file.path.decode("utf-8", "replace"),
                "container": file.container or None,
                **storage(file.storage),
                "tensors": [
                    {
                        "name": _word(tensor.name),
                        "dtype": tensor.dtype,
                        "shape": list(tensor.shape),
                        **storage(tensor.storage),
                        "base": text(tensor.base) or None,
                    }
                    for tensor in file.tensors
                ],
            }
            for file in described.files
        ],
        "notes": list(described.notes),
    }


def storage(stored: Storage) -> Document:
    """How bytes are stored, and how many by each method."""
    return {
        "size_bytes": stored.size_bytes,
        "stored_bytes": stored.stored_bytes,
        "ratio": stored.ratio,
        "methods": {
            method: {"size_bytes": size, "stored_bytes": stored.stored.get(method, 0)}
            for method, size in stored.plain.items()
        },
    }


def diff_report(report: DiffReport, limit: int | None) -> Document:
    """How two snapshots differ; of each list the first `limit`, all where None."""
    return {
        "old": snapshot(report.old),
        "new": snapshot(report.new),
        "files": [file_change(change) for change in report.files[:limit]],
        "changed_files": len(report.files),
        "unchanged_files": report.unchanged_files,
        "tensors": [tensor_change(change) for change in report.tensors[:limit]],
        "changed_tensors": len(report.tensors),
        "unchanged_tensors": report.unchanged_tensors,
        "layers": [layer_change(change) for change in report.layers[:limit]],
        "changed_layers": len(report.layers),
        **{
            name: {key: {"old": old, "new": new} for key, (old, new) in differing.items()}
            for name, differing in (
                ("labels", report.labels),
                ("metrics", report.metrics),
                ("code", report.code),
            )
        },
        "source": source_changes(report.source, limit),
        "configs": [config_change(change) for change in report.configs],
        "failed": [
            {"path": text(path), "reason": reason} for path, reason in report.failed.items()
        ],
    }


def config_change(change: ConfigChange) -> Document:
    """The settings of a configuration file that differ."""
    return {
        "path": change.path.decode("utf-8", "replace"),
        "old_path": change.old_path.decode("utf-8", "replace"),
        "settings": [
            {
                "key": _word(setting.key),
                "change": setting.change,
                "old": _json(setting.old),
                "new": _json(setting.new),
            }
            for setting in change.settings
        ],
        "note": change.note or None,
    }


def file_change(change: FileChange) -> Document:
    """One path that differs."""
    return {
        "change": change.change,
        "path": change.path.decode("utf-8", "replace"),
        "old_path": change.old_path.decode("utf-8", "replace") or None,
        "type": FILE_TYPES[change.type.value],
        "size_bytes": change.size_bytes,
        "old_size_bytes": change.old_size_bytes,
        "attributes": list(change.attributes),
    }


def tensor_change(change: TensorChange) -> Document:
    """One tensor that differs."""
    return {
        "change": change.change,
        "name": _word(change.name),
        "path": change.path.decode("utf-8", "replace"),
        "dtype": change.dtype,
        "shape": list(change.shape),
        "size_bytes": change.size_bytes,
        "old_path": change.old_path.decode("utf-8", "replace") or None,
        "old_dtype": change.old_dtype or None,
        "old_shape": list(change.old_shape) if change.old_dtype else None,
        "figures": figures(change.figures),
    }


def layer_change(change: LayerChange) -> Document:
    """The tensors of one layer together."""
    return {
        "folder": change.folder.decode("utf-8", "replace"),
        "prefix": _word(change.prefix),
        "tensors": change.tensors,
        "changed_tensors": change.changed,
        "size_bytes": change.size_bytes,
        "figures": figures(change.figures),
    }


def figures(found: Figures | None) -> Document | None:
    """By how much numbers differ; null where there is nothing to compare."""
    if found is None:
        return None
    return {
        "unit": found.unit,
        "count": found.count,
        "changed": found.changed,
        "changed_share": found.share,
        "non_finite_changed": found.non_finite,
        "largest_change": _finite(found.largest),
        "mean_change": _finite(found.mean),
        "cosine": found.cosine,
    }


def _word(name: str) -> str:
    """A tensor's name as Unicode: a file can name half a character, which becomes `?`."""
    return name.encode("utf-8", "replace").decode()


def _finite(number: float | None) -> float | None:
    """JSON knows no infinity, which the difference of two numbers may be."""
    return number if number is None or math.isfinite(number) else None


def _json(value: Any) -> Any:
    """A setting as strict JSON has it: NaN and infinities as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return _word(value) if isinstance(value, str) else value


def text(path: str) -> str:
    """A path that JSON can carry: bytes that are not UTF-8 become U+FFFD."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
