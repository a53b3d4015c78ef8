"""The status page as HTML, from the daemon's status document; no scripts, nothing from outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from backupd.config.wording import ago, size, span, until

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; --good: #17803d; --bad: #c0262d;
  --wait: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --dim: #9a9a9a; --good: #4cc27a; --bad: #ff7b72;
  --wait: #d9a441; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
  padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
p { margin: .2rem 0; } .dim { color: var(--dim); }
.table { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; color: var(--dim); font-size: .85rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .wait { color: var(--wait); }
.verdict { font-size: 1.1rem; font-weight: 600; margin-top: .6rem; }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
progress { width: 12rem; vertical-align: middle; }
ul { margin: .3rem 0; padding-left: 1.2rem; }
"""
_CLASSES = {
    "ok": "good", "new": "wait", "running": "wait", "pending": "wait", "stale": "bad",
    "partial": "bad", "failed": "bad", "missing": "bad",
}  # fmt: skip


def render_page(status: Mapping[str, Any]) -> str:
    """The whole page; it asks to be loaded again every ten seconds."""
    body = "".join(_body(status))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="10"><title>{_title(status)}</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _wrong(status: Mapping[str, Any]) -> list[str]:
    models = status.get("models", ())
    wrong = [str(model["name"]) for model in models if _CLASSES.get(model["state"]) == "bad"]
    wrong += [_job_name(job) for job in status.get("upkeep", ()) if job.get("error")]
    return wrong


def _title(status: Mapping[str, Any]) -> str:
    mark = "✗" if _wrong(status) else "✓"
    return f"{mark} backupd on {escape(str(status['host']))}"


def _body(status: Mapping[str, Any]) -> Iterator[str]:
    now = float(status["now"])
    wrong = _wrong(status)
    yield f"<h1>backupd on {escape(str(status['host']))}</h1>"
    if wrong:
        yield f'<p class="verdict bad">Needs a look: {escape(", ".join(wrong))}</p>'
    else:
        yield '<p class="verdict good">All is well</p>'
    yield (
        f'<p class="dim">version {escape(str(status["version"]))}, running since '
        f"{ago(now - float(status['started']))}, with "
        f"<code>{escape(str(status['configuration']))}</code></p>"
    )
    yield "<h2>Models</h2>"
    yield _table(
        ("Model", "State", "Newest", "Taken", "Next", "Targets", "What is wrong"),
        [_model_row(model, now) for model in status.get("models", ())],
    )
    jobs = status.get("jobs", ())
    if jobs:
        yield "<h2>Now</h2>"
        yield _table(("Job", "Of", "State", "How far"), [_job_row(job) for job in jobs])
    yield "<h2>Upkeep</h2>"
    yield _table(
        ("Job", "Target", "State", "Last good", "Next", "What is wrong"),
        [_upkeep_row(job, now) for job in status.get("upkeep", ())],
    )
    reload = (status.get("reload") or {}).get("error")
    warnings = list(status.get("warnings", ()))
    if reload:
        warnings.append(f"the last reload was refused: {reload}")
    if warnings:
        yield "<h2>Warnings</h2><ul>"
        yield from (f"<li>{escape(str(warning))}</li>" for warning in warnings)
        yield "</ul>"


def _model_row(model: Mapping[str, Any], now: float) -> tuple[str, ...]:
    snapshot, taken, following = (
        model.get(key) for key in ("snapshot", "snapshot_time", "next_run")
    )
    watch = model.get("watch") or {}
    mode = str(watch.get("mode") or "")
    how = "" if mode == "watching" else f' <span class="dim">{escape(mode)}</span>'
    why = [str(model.get("error") or "")]
    why += [
        f"{target['name']}: {target['error']}"
        for target in model.get("targets", ())
        if target.get("error") and str(target["error"]) not in why[0]
    ]
    return (
        f"{escape(str(model['name']))}<br><code class='dim'>{escape(str(model['path']))}</code>",
        _state(str(model["state"])) + how,
        escape(str(snapshot).rpartition("@")[2]) if snapshot else "none yet",
        ago(now - float(taken)) if taken else "",
        until(float(following) - now) if following else "",
        "<br>".join(_target(target) for target in model.get("targets", ())),
        escape("; ".join(text for text in why if text)),
    )


def _target(target: Mapping[str, Any]) -> str:
    bad = bool(target.get("error"))
    version = f" v{target['version']}" if target.get("version") else ""
    owed = int(target.get("owed") or 0)
    good = bool(target.get("last_good")) and not owed
    mark = "✗" if bad else "✓" if good else "–"
    kind = "bad" if bad else "good" if good else "dim"
    more = f" <span class='dim'>{owed} owed</span>" if owed else ""
    return f'<span class="{kind}">{mark}</span> {escape(str(target["name"]))}{version}{more}'


def _upkeep_row(job: Mapping[str, Any], now: float) -> tuple[str, ...]:
    good, following = job.get("last_good"), job.get("next_run")
    return (
        escape(str(job["job"])),
        escape(str(job.get("target") or "all")),
        _state(str(job["state"])),
        ago(now - float(good)) if good else "never",
        until(float(following) - now) if following else "never",
        escape(str(job.get("error") or "")),
    )


def _job_row(job: Mapping[str, Any]) -> tuple[str, ...]:
    done, total = float(job.get("done_bytes") or 0), float(job.get("total_bytes") or 0)
    far = escape(str(job.get("phase") or ""))
    if total:
        far += f' <progress max="{total:.0f}" value="{min(done, total):.0f}"></progress>'
        far += f" {size(done)} of {size(total)}"
    elif done:
        far += f" {size(done)}"
    return (
        escape(str(job["job"])),
        escape(str(job.get("name") or "all")),
        _state(str(job["state"])),
        f"{far} <span class='dim'>for {span(float(job.get('seconds') or 0))}</span>",
    )


def _job_name(job: Mapping[str, Any]) -> str:
    return " ".join(str(part) for part in (job["job"], job.get("target")) if part)


def _state(state: str) -> str:
    return f'<span class="{_CLASSES.get(state, "dim")}">{escape(state)}</span>'


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    kept = [i for i in range(len(titles)) if any(row[i] for row in rows)]
    if not kept:
        return '<p class="dim">none</p>'
    head = "".join(f"<th>{titles[i]}</th>" for i in kept)
    lines = "".join("<tr>" + "".join(f"<td>{row[i]}</td>" for i in kept) + "</tr>" for row in rows)
    return f'<div class="table"><table><tr>{head}</tr>{lines}</table></div>'
