"""From the common options to an opened installation; here alone a passphrase is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backupd.cli.app import App
from backupd.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from backupd.config.settings import ModelSettings, Settings
    from backupd.operations.catalog import ResolvedSnapshot
    from backupd.operations.installation import Installation


def config_path(app: App) -> Path:
    """The configuration file that this invocation means; raises `ConfigError` for none."""
    if app.config:
        return Path(app.config)
    from backupd.config.find import find_config

    return find_config(app.environment)


def load_settings(app: App, *, quickly: bool = False) -> Settings:
    """The configuration; raises `ConfigError`.

    `quickly` is for commands that are typed or run often: see `config.cache`.
    """
    path = config_path(app)
    if quickly:
        from backupd.config.cache import load_config_quickly

        settings = load_config_quickly(path, app.environment)
    else:
        # Imported here: pydantic and yaml cost 150 ms, and `--version` needs neither.
        from backupd.config.load import load_config

        settings = load_config(path, app.environment)
    app.state_dir = settings.state_dir
    return settings


@contextmanager
def opened(app: App, repository: str = "", *, quickly: bool = False) -> Iterator[Installation]:
    """The installation of the configuration, or of the one repository at `repository`.

    `quickly` is as in `load_settings`.

    Where that needs a key, none is in the environment and a person sits there, the passphrase
    is asked for. Raises `WrongKeyError`, `TargetUnreachableError`, `ConfigError`.
    """
    from backupd.operations.installation import open_installation, open_standalone

    if repository and app.config:
        raise UsageError(
            "--repository stands in for a configuration, and --config names one",
            hint="leave one of the two out",
        )
    if repository:
        installation = open_standalone(
            repository,
            environment=app.environment,
            clock=app.clock,
            prompt=_prompt_for(repository) if sys.stdin.isatty() else None,
        )
    else:
        installation = open_installation(
            load_settings(app, quickly=quickly), environment=app.environment, clock=app.clock
        )
    with installation:
        yield installation


def _prompt_for(location: str) -> Callable[[], str]:
    def ask() -> str:
        entered = click.prompt(f"Passphrase or key of {location}", hide_input=True, err=True)
        return str(entered)

    return ask


def found_snapshot(
    app: App, installation: Installation, text: str, target: str
) -> ResolvedSnapshot:
    """What `resolve` finds; how far it is is shown, as a far target may have thousands."""
    from backupd.cli.progress import shown_progress
    from backupd.operations.resolve import resolve

    with shown_progress(app) as progress:
        return resolve(installation, text, target=target, progress=progress)


def chosen_models(settings: Settings, names: tuple[str, ...]) -> list[ModelSettings]:
    """The models of those names, or all; raises `NotFoundError` with the nearest names."""
    if not names:
        if not settings.models:
            raise NotFoundError(f"{settings.source} has no model", hint="add one under `models:`")
        return list(settings.models.values())
    return [settings.models[known_name(name, settings.models, "model")] for name in names]


def chosen_targets(installation: Installation, names: tuple[str, ...]) -> list[str]:
    """The targets of those names, or all; raises `NotFoundError` with the nearest names."""
    known = installation.settings.targets
    return [known_name(name, known, "target") for name in names] or list(known)


def known_name(name: str, known: Mapping[str, object], what: str) -> str:
    """`name` when it is one of `known`; else `NotFoundError` with the nearest."""
    if name in known:
        return name
    from backupd.policy.nearest import nearest_names  # only a mistake needs it

    near = nearest_names(name, known) or tuple(known)[:5]
    raise NotFoundError(
        f"there is no {what} {name!r}",
        hint=f"there is {', '.join(near)}" if near else f"the configuration names no {what}",
    )
