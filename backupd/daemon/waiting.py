"""How long a snapshot waits for its model to settle, by what it was taken for."""

from __future__ import annotations

from backupd.capture.settle import SettleRules, asked_rules, immediate_rules, scheduled_rules
from backupd.config.settings import ModelSettings
from backupd.daemon.queue import Job


def rules_of(job: Job, model: ModelSettings) -> SettleRules:
    """The rules for a job: a schedule waits longer than one who asks."""
    if job.now:
        return immediate_rules(model.settle_seconds)
    if job.asked:
        return asked_rules(model.settle_seconds)
    return scheduled_rules(model.settle_seconds, model.settle_max_seconds)
