"""The daemon's status as metrics, in the text format of Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_STATES = ("ok", "new", "pending", "running", "stale", "partial", "failed", "missing")


def render_metrics(status: Mapping[str, Any]) -> str:
    """All metrics of a status document."""
    return "\n".join(_lines(status)) + "\n"


def _lines(status: Mapping[str, Any]) -> Iterator[str]:
    yield from _family("backupd_info", "gauge", "The version that runs.")
    yield _sample("backupd_info", {"version": status["version"], "host": status["host"]}, 1)
    yield from _family("backupd_start_time_seconds", "gauge", "When the daemon started.")
    yield _sample("backupd_start_time_seconds", {}, status["started"])
    models = status.get("models", ())
    yield from _family("backupd_model_state", "gauge", "1 for the state that a model is in.")
    for model in models:
        for state in _STATES:
            labels = {"model": model["name"], "state": state}
            yield _sample("backupd_model_state", labels, int(model["state"] == state))
    for name, key, what in (
        ("backupd_model_snapshot_time_seconds", "snapshot_time", "When the newest was taken."),
        ("backupd_model_last_good_time_seconds", "last_good", "When nothing was missing last."),
        ("backupd_model_failures", "failures", "Runs in a row that failed."),
    ):
        yield from _family(name, "gauge", what)
        for model in models:
            if model.get(key) is not None:
                yield _sample(name, {"model": model["name"]}, model[key])
    yield from _family("backupd_target_ok", "gauge", "1 where a target took a model's newest.")
    for model in models:
        for target in model.get("targets", ()):
            labels = {"model": model["name"], "target": target["name"]}
            yield _sample("backupd_target_ok", labels, int(not target.get("error")))
    yield from _family(
        "backupd_target_owed", "gauge", "Snapshots that are still to be copied there."
    )
    for model in models:
        for target in model.get("targets", ()):
            labels = {"model": model["name"], "target": target["name"]}
            yield _sample("backupd_target_owed", labels, int(target.get("owed") or 0))
    yield from _family("backupd_upkeep_ok", "gauge", "1 where an upkeep job's last run was good.")
    for job in status.get("upkeep", ()):
        labels = {"job": job["job"], "target": job.get("target") or ""}
        yield _sample("backupd_upkeep_ok", labels, int(not job.get("error")))
    yield from _family("backupd_jobs", "gauge", "Jobs that run or wait.")
    jobs = status.get("jobs", ())
    for state in ("running", "pending"):
        yield _sample("backupd_jobs", {"state": state}, sum(j["state"] == state for j in jobs))


def _family(name: str, kind: str, what: str) -> Iterator[str]:
    yield f"# HELP {name} {what}"
    yield f"# TYPE {name} {kind}"


def _sample(name: str, labels: Mapping[str, object], value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(str(text))}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
