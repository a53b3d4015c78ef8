"""`forget`, `policy` and `prune`: which snapshots stay, why, and the space of the others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from backupd import errors
from backupd.cli import completion, documents, output
from backupd.cli.app import App
from backupd.cli.command import command
from backupd.cli.commands.snapshot import combined
from backupd.cli.formatting import Column, count, local_time, pairs, printable, size, utc_time
from backupd.cli.one_by_one import one_by_one
from backupd.cli.opening import chosen_models, chosen_targets, opened
from backupd.cli.parameters import dry_run_option, duration, target_option
from backupd.cli.stopping import stop_on_signal

if TYPE_CHECKING:
    from backupd.config.settings import ModelSettings, Settings
    from backupd.operations.reports import ForgetItem, ForgetReport, PruneReport
    from backupd.policy.simulate import Simulation

_COLUMNS = (
    Column("SNAPSHOT"),
    Column("DATE", drop=3),
    Column("SIZE", right=True, drop=1),
    Column("LABELS", shrink=8, drop=2),
    Column("TARGET"),
    Column("WHY", shrink=28, wrap=True),
)


@command(
    "forget",
    exits=errors.REPOSITORY_EXITS,
    examples=(
        ("backupd forget --dry-run", "which snapshots the policies would drop, and why not others"),
        ("backupd forget", "drops them, as the daemon does by its schedule"),
        ("backupd forget llama-ft@v3 llama-ft@v4", "drops these two from every target"),
    ),
)
@click.argument(
    "snapshots", metavar="[SNAPSHOT]...", nargs=-1, shell_complete=completion.complete_snapshots
)
@click.option(
    "--model",
    "models",
    metavar="MODEL",
    multiple=True,
    shell_complete=completion.complete_models,
    help="By policy, but only this model's; give it again for more.",
)
@dry_run_option
@click.pass_obj
def forget_command(
    app: App, snapshots: tuple[str, ...], models: tuple[str, ...], dry_run: bool
) -> int:
    """Drop the SNAPSHOTs, or without any, those that no policy keeps.

    The newest snapshot of a model is never dropped by a policy. Space is reclaimed by
    `backupd prune`, and not before a day has passed.
    """
    if snapshots and models:
        raise click.UsageError("name snapshots, or --model for its policies, not both")
    from backupd.operations.forget import forget_by_policy, forget_snapshots

    with opened(app) as installation:
        if snapshots:
            report = forget_snapshots(installation, snapshots, dry_run=dry_run)
        else:
            names = tuple(model.name for model in chosen_models(installation.settings, models))
            report = forget_by_policy(
                installation,
                models=names if models else (),
                dry_run=dry_run,
                now=app.clock(),
            )
    output.document(app, documents.forget_report(report))
    _say_forget(app, report, by_policy=not snapshots)
    for target in report.append_only:
        output.say(app, f"{target} is append-only here and was left to who may thin it")
    for target, why in report.unreachable.items():
        output.warn(app, f"{target} was left as it is: {printable(why)}")
    return errors.EXIT_PARTIAL if report.unreachable else errors.EXIT_DONE


def _say_forget(app: App, report: ForgetReport, *, by_policy: bool) -> None:
    if by_policy and (report.dry_run or app.verbose):
        output.table(app, _COLUMNS, [_item_row(item) for item in _ordered(report)])
        output.say(app)
    elif app.chatty:
        for item in report.forgotten:
            output.say(app, f"{_verb(report)} {item.snapshot.name} on {item.target}")
    kept = f", kept {len(report.kept):,}" if by_policy else ""
    if report.dry_run:
        kept = f", keep {len(report.kept):,}" if by_policy else ""
        output.say(
            app, f"would forget {count(len(report.forgotten), 'snapshot')}{kept}; nothing was done"
        )
        return
    output.say(app, f"forgot {count(len(report.forgotten), 'snapshot')}{kept}")
    if report.forgotten:
        output.say(app, "their space is reclaimed by `backupd prune`")


def _verb(report: ForgetReport) -> str:
    return "would forget" if report.dry_run else "forgot"


def _ordered(report: ForgetReport) -> list[ForgetItem]:
    return sorted(
        (*report.kept, *report.forgotten),
        key=lambda item: (item.snapshot.model, item.target, item.snapshot.version),
    )


def _item_row(item: ForgetItem) -> tuple[str, ...]:
    info = item.snapshot
    return (
        info.name,
        local_time(info.time),
        size(info.size_bytes),
        pairs(info.labels),
        item.target,
        _why(item.reasons) if item.reasons else "- dropped",
    )


def _why(reasons: Sequence[str]) -> str:
    """The reasons, each policy named once: `working: last 1/5, daily 1/7`."""
    rules: dict[str, list[str]] = {}
    for reason in reasons:
        policy, _, rule = reason.partition(": ")
        rules.setdefault(policy, []).append(rule)
    return "; ".join(
        f"{policy}: {', '.join(filter(None, found))}" if any(found) else policy
        for policy, found in rules.items()
    )


@command(
    "policy",
    exits=errors.REPOSITORY_EXITS,
    examples=(
        ("backupd policy llama-ft", "what is kept today, with every reason"),
        ("backupd policy llama-ft --simulate 90d", "how many are kept as the next 90 days go by"),
    ),
)
@click.argument("model", shell_complete=completion.complete_models)
@click.option(
    "--simulate",
    "seconds",
    metavar="DURATION",
    type=duration,
    help="Play schedule and policy forward for so long: 90d, 12w, 1y.",
)
@click.pass_obj
def policy_command(app: App, model: str, seconds: float | None) -> None:
    """Show what a model's policies keep and why, today and as time goes on.

    Nothing is changed. The simulation assumes a snapshot at every tick of the schedule; a
    tick over an unchanged model takes none, so what is really kept reaches further back.
    """
    from backupd.operations.forget import forget_by_policy

    with opened(app) as installation:
        [settings] = chosen_models(installation.settings, (model,))
        report = forget_by_policy(
            installation, models=(settings.name,), dry_run=True, now=app.clock()
        )
        simulations = (
            _simulate(app, installation.settings, settings, report, seconds) if seconds else {}
        )
    output.document(
        app,
        {
            "model": settings.name,
            "policies": {target: list(names) for target, names in settings.targets.items()},
            **documents.forget_report(report),
            "simulations": {
                target: _simulation_document(found) for target, found in simulations.items()
            },
        },
    )
    for target, names in settings.targets.items():
        policies = ", ".join(names) if names else "no policy, everything is kept"
        output.say(app, f"{settings.name} on {target}: {policies}")
    output.say(app)
    output.table(app, _COLUMNS, [_item_row(item) for item in _ordered(report)])
    for target, found in simulations.items():
        _say_simulation(app, target, found)


def _simulate(
    app: App, settings: Settings, model: ModelSettings, report: ForgetReport, seconds: float
) -> dict[str, Simulation]:
    from backupd.policy.cron import parse_cron
    from backupd.policy.retention import Candidate
    from backupd.policy.simulate import simulate

    found = {}
    for target, names in model.targets.items():
        try:
            found[target] = simulate(
                [
                    Candidate(
                        item.snapshot.version,
                        item.snapshot.time,
                        item.snapshot.labels,
                        item.snapshot.metrics,
                    )
                    for item in (*report.kept, *report.forgotten)
                    if item.target == target
                ],
                [settings.policies[name] for name in names],
                schedule=parse_cron(model.schedule),
                forget=parse_cron(settings.upkeep.forget or "0 3 * * *"),
                now=app.clock(),
                duration=timedelta(seconds=seconds),
            )
        except ValueError as error:
            problem, _, mend = str(error).partition("; ")
            raise errors.UsageError(problem, hint=mend) from None
    return found


def _simulation_document(found: Simulation) -> dict[str, Any]:
    return {
        "start": utc_time(found.start),
        "end": utc_time(found.end),
        "most_kept": found.most_kept,
        "runs": [
            {
                "time": utc_time(run.time),
                "taken": run.taken,
                "forgotten": run.forgotten,
                "kept": run.kept,
                "oldest": utc_time(run.oldest),
            }
            for run in found.runs
        ],
        "kept": [
            {
                "version": decision.candidate.version,
                "time": utc_time(decision.candidate.time),
                "reasons": list(decision.reasons),
            }
            for decision in found.kept
        ],
    }


_CHART_COLUMNS = (
    Column("DATE"),
    Column("TAKEN", right=True),
    Column("FORGOTTEN", right=True),
    Column("KEPT", right=True),
    Column("BACK TO"),
    Column("", shrink=4, drop=1),
)
_CHART_ROWS = 15
_CHART_WIDTH = 24


def _say_simulation(app: App, target: str, found: Simulation) -> None:
    output.say(app, f"\n{target}, until {local_time(found.end)[:10]}")
    runs = found.runs
    step = max(1, -(-len(runs) // _CHART_ROWS))
    groups = [runs[start : start + step] for start in range(0, len(runs), step)]
    most = max(found.most_kept, 1)
    output.table(
        app,
        _CHART_COLUMNS,
        [
            (
                local_time(group[-1].time)[:10],
                f"{sum(run.taken for run in group):,}",
                f"{sum(run.forgotten for run in group):,}",
                f"{group[-1].kept:,}",
                local_time(group[-1].oldest)[:10],
                "#" * max(1, round(_CHART_WIDTH * group[-1].kept / most)),
            )
            for group in groups
        ],
    )
    output.say(app, f"at most {count(found.most_kept, 'snapshot')} at a time")


@command(
    "prune",
    exits=errors.REPOSITORY_EXITS,
    examples=(
        ("backupd prune --dry-run", "what is unused, and how much space it takes"),
        ("backupd prune", "marks what is unused, and deletes what was marked a day ago"),
    ),
)
@target_option("Only this target; give it again for one more.", multiple=True)
@dry_run_option
@click.pass_obj
def prune_command(app: App, target: tuple[str, ...], dry_run: bool) -> int:
    """Reclaim the space of forgotten snapshots.

    Nothing is locked: what no snapshot needs is marked first, and deleted by a later prune
    when it has been marked for longer than a snapshot may take (24 hours) and is still not
    needed. What was stored within these 24 hours is left alone, as a snapshot that is being
    taken may need it. Snapshots go on meanwhile, and it may be interrupted at any time.
    """
    from backupd.operations.append_only import append_only
    from backupd.operations.prune import prune

    def tell(report: PruneReport) -> tuple[dict[str, Any], int]:
        _say_prune(app, report)
        return documents.prune_report(report), errors.EXIT_DONE

    with opened(app) as installation, stop_on_signal() as stop:
        names = chosen_targets(installation, target)
        left = append_only(installation.settings, () if target else names)
        for name in left:
            output.say(app, f"{name} is append-only here and is left to who may thin it")
        names = [name for name in names if name not in left]
        answers, codes = one_by_one(
            app,
            names,
            lambda name, progress: prune(
                installation, name, dry_run=dry_run, progress=progress, stop=stop
            ),
            tell,
        )
    output.document(app, {"targets": answers})
    return combined(codes)


def _say_prune(app: App, report: PruneReport) -> None:
    would = "would be " if report.dry_run else ""
    parts = [
        f"{packs:,} {would}{what}"
        for packs, what in (
            (report.packs_deleted, f"deleted ({size(report.deleted_bytes)})"),
            (report.packs_marked, f"marked ({size(report.marked_bytes)})"),
            (report.packs_repacked, f"repacked ({size(report.repacked_bytes)})"),
            (report.unmarked, "unmarked, as they are needed again"),
        )
        if packs
    ]
    if report.purged_bytes:
        parts.append(f"{size(report.purged_bytes)} of old versions {would}removed")
    done = ", ".join(parts) or "nothing to reclaim now"
    output.say(app, f"{report.target}: {count(report.packs_total, 'pack')}: {done}")
    if report.packs_marked and not report.dry_run:
        output.say(app, "  what is marked is deleted by a prune after 24 hours")
    for line in report.notes:
        output.note(app, printable(line))
