"""A status document as a daemon with something wrong gives it."""

from __future__ import annotations

from typing import Any

NOW = 1_782_900_420.0


def status_document() -> dict[str, Any]:
    """Two models, of which one fails and one lacks a target, a bad check, and a job that runs."""
    target = {"last_good": NOW - 600, "version": 12, "error": "", "error_time": None}
    model = {
        "path": "/srv/runs/llama-ft", "schedule": "*/15 * * * *", "timezone": "",
        "stale": False, "watch": {"mode": "watching", "why": ""}, "changed": False,
        "snapshot": "llama-ft@v12", "snapshot_time": NOW - 600, "last_run": NOW - 60,
        "last_good": NOW - 60, "next_run": NOW + 300, "error": "", "error_time": None,
        "failures": 0,
    }  # fmt: skip
    nas = {**target, "version": 11, "error": "nothing is mounted at /mnt/nas"}
    upkeep = {"state": "ok", "last_run": NOW, "last_good": NOW, "next_run": NOW + 9e4, "error": ""}
    return {
        "reload": {"time": None, "error": ""},
        "pid": 42, "version": "0.1.0", "host": "box1", "configuration": "/etc/backupd/backupd.yaml",
        "state_dir": "/var/lib/backupd", "started": NOW - 7200, "now": NOW,
        "warnings": ["/etc/backupd/backupd.yaml:9: the target 'old' is used by no model"],
        "models": [
            {"name": "llama-ft", "state": "running", **model,
             "targets": [{"name": "disk", **target}, {"name": "nas", **nas}]},
            {"name": "bert", "state": "failed", **model, "path": "/srv/runs/bert",
             "snapshot": "", "snapshot_time": None, "error": "/srv/runs/bert cannot be read",
             "failures": 3, "watch": {"mode": "polling", "why": "the watch limit is reached"},
             "targets": [{"name": "disk", **target, "version": 0, "last_good": None}]},
        ],
        "upkeep": [
            {"job": "forget", "target": "", **upkeep},
            {"job": "check", "target": "s3", **upkeep, "state": "failed",
             "error": "check found 2 damaged objects on s3"},
        ],
        "jobs": [
            {"job": "snapshot", "name": "llama-ft", "state": "running", "reason": "changed",
             "seconds": 12.5, "phase": "store", "done_bytes": 3_000_000_000,
             "total_bytes": 8_000_000_000, "items": 3},
        ],
    }  # fmt: skip
