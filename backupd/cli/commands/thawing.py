"""What `restore` says and does about packs in an archive class, before it can read them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from backupd.cli import output
from backupd.cli.app import App
from backupd.cli.formatting import count, size, span
from backupd.cli.progress import shown_progress

if TYPE_CHECKING:
    from backupd.operations.catalog import ResolvedSnapshot
    from backupd.operations.installation import Installation
    from backupd.operations.restore import RestoreRequest
    from backupd.operations.thaw import ThawPlan

# What `--thaw` takes; with the last nothing is asked for.
TIERS = ("expedited", "standard", "bulk", "no")


def look(
    app: App,
    installation: Installation,
    resolved: ResolvedSnapshot,
    request: RestoreRequest,
    tier: str,
    stop: threading.Event,
) -> ThawPlan | None:
    """What the restore needs and cannot read now, or None where that is nothing."""
    from backupd.operations.thaw import plan_thaw

    with shown_progress(app) as progress:
        plan = plan_thaw(installation, resolved, request, tier=tier, progress=progress, stop=stop)
    return None if plan.empty else plan


def thaw(
    app: App, installation: Installation, plan: ThawPlan, *, wait: bool, stop: threading.Event
) -> bool:
    """Say what is cold, ask for it, and with `wait` wait; whether it can be read now."""
    from backupd.operations.thaw import ask
    from backupd.operations.thaw import wait as wait_for

    say(app, plan)
    if plan.tier == "no":
        return False
    with shown_progress(app) as progress:
        if plan.packs:
            ask(installation, plan, progress=progress, stop=stop)
        if wait:
            wait_for(installation, plan, progress=progress, stop=stop)
    if not wait:
        output.say(app, "run the same restore again then; with --wait it waits by itself")
    return wait


def say(app: App, plan: ThawPlan) -> None:
    """What is cold, what thawing takes, and what it costs."""
    every = (*plan.packs, *plan.asked)
    classes = ", ".join(sorted({pack.storage_class for pack in every}))
    output.warn(
        app,
        f"{count(len(every), 'pack')} ({size(plan.size_bytes)}) on {plan.target} are in {classes}"
        " and must be thawed before they can be read",
    )
    if plan.asked:
        output.say(app, f"{count(len(plan.asked), 'pack')} of them were asked for already")
    if plan.tier == "no":
        for tier in TIERS[:-1]:
            _say_choice(app, plan, tier)
    elif plan.packs:
        _say_choice(app, plan, plan.tier)
    if plan.unknown:
        output.say(app, "lists of files are among them, so more may turn out to be needed")


def _say_choice(app: App, plan: ThawPlan, tier: str) -> None:
    from backupd.operations.thaw import estimate

    packs = plan.packs or plan.asked
    hours, dollars = estimate(packs, tier)
    if not hours:
        output.say(app, f"--thaw {tier}: not known of this class; the store has the last word")
        return
    output.say(
        app,
        f"--thaw {tier}: within {span(hours * 3600)}, for {plan.days} days, for about"
        f" ${dollars:.2f} (Amazon's prices, {plan.prices_of})",
    )


def document(plan: ThawPlan | None) -> dict[str, Any] | None:
    """The plan in a `--json` document."""
    if plan is None:
        return None
    return {
        "target": plan.target,
        "tier": plan.tier,
        "packs": len(plan.packs),
        "asked_before": len(plan.asked),
        "size_bytes": plan.size_bytes,
        "hours": plan.hours,
        "dollars": round(plan.dollars, 4),
        "prices_of": plan.prices_of,
        "days": plan.days,
    }
