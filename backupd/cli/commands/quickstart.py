"""`quickstart`: from nothing to a watched and backed-up folder, in one command."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backupd import errors
from backupd.cli import output, sample
from backupd.cli.app import App
from backupd.cli.command import command
from backupd.cli.commands.listing import say_snapshots
from backupd.cli.commands.setup import say_init
from backupd.cli.commands.snapshot import take_snapshots
from backupd.cli.formatting import printable

if TYPE_CHECKING:
    from backupd.config.settings import ModelSettings, Settings


@dataclass(frozen=True, slots=True)
class Places:
    """Where quickstart puts what it makes."""

    config: Path
    key: Path
    repository: Path
    state: Path
    sample: Path


@command(
    "quickstart",
    exits=(
        errors.EXIT_FAILED,
        errors.EXIT_PARTIAL,
        errors.EXIT_NOT_FOUND,
        errors.EXIT_TARGET,
        errors.EXIT_KEY,
    ),
    examples=(
        ("backupd quickstart ~/runs/llama-ft", "backs this folder up, and goes on watching it"),
        ("backupd quickstart --once", "shows the whole story on a sample, and ends"),
    ),
)
@click.argument(
    "folder", metavar="[DIR]", required=False, type=click.Path(file_okay=False, path_type=Path)
)
@click.option("--once", is_flag=True, help="End after the first snapshot instead of watching.")
@click.pass_obj
def quickstart_command(app: App, folder: Path | None, once: bool) -> int:
    """Set up backupd for DIR on a machine where nothing is set up, and watch it.

    Writes a commented configuration to ~/.config/backupd/backupd.yaml (or to --config FILE,
    with everything else beside it), makes a key and an encrypted repository under
    ~/.local/share/backupd, takes the first snapshot, and goes on running in the foreground:
    a model that has changed gets a snapshot every five minutes. Ctrl-C ends it.

    Without DIR a small sample model is made first. Nothing that is there is overwritten: run
    it again and it goes on with what the first run made. After a run with the sample, one with
    DIR adds DIR to the configuration.
    """
    places = find_places(app)
    app.config = str(places.config)
    set_up = _go_on if places.config.exists() else _start
    model = set_up(app, places, folder)
    output.say(app)
    code = take_snapshots(app, [model], {}, {})
    if app.chatty:
        _show_what_there_is(app, places, model)
    if once or code not in (errors.EXIT_DONE, errors.EXIT_PARTIAL):
        return code
    return _watch(app, places)


def find_places(app: App) -> Places:
    """By the XDG base folders; with `--config` (or `$BACKUPD_CONFIG`) all beside that file."""
    from backupd.config.find import VARIABLE, user_file

    named = app.config or app.environment.get(VARIABLE, "")
    if named:
        folder = Path(named).absolute().parent
        return Places(
            Path(named).absolute(),
            folder / "key",
            folder / "repository",
            folder / "state",
            folder / sample.NAME,
        )
    config = user_file(app.environment)
    if config is None:
        raise errors.UsageError(
            "HOME is not set, so there is no place for a configuration",
            hint="name one with --config FILE",
        )
    data = app.home("XDG_DATA_HOME", ".local/share") / "backupd"
    return Places(
        config,
        config.parent / "key",
        data / "repository",
        app.home("XDG_STATE_HOME", ".local/state") / "backupd",
        data / sample.NAME,
    )


def _start(app: App, places: Places, folder: Path | None) -> ModelSettings:
    """Everything from nothing; the configuration is written last, when what it names is there."""
    from backupd.config.load import check_text

    if folder is None:
        folder = _sample_folder(app, places)
    text = _render(places, _existing_folder(folder)).encode()
    settings, problems = check_text(text, places.config, app.environment)
    if settings is None:
        raise problems[0].error()
    _initialise(app, settings)
    _write_new(places.config, text)
    output.say(app, f"configuration: {places.config} (commented)")
    [model] = settings.models.values()
    return model


def _go_on(app: App, places: Places, folder: Path | None) -> ModelSettings:
    """With the configuration that is there, which is left as it is once it is a person's own."""
    from backupd.cli.opening import load_settings

    settings = load_settings(app)
    if folder is not None and _shows_only_the_sample(places):
        settings = _add_model(app, places, settings, _existing_folder(folder))
    model = _known_model(settings, folder)
    output.say(app, f"{places.config} is there already; going on with it")
    if folder is None and model.path == places.sample and not model.path.exists():
        _sample_folder(app, places)
    _initialise(app, settings)
    return model


def _known_model(settings: Settings, folder: Path | None) -> ModelSettings:
    models = list(settings.models.values())
    if folder is None:
        if models:
            return models[0]
        raise errors.UsageError(
            f"{settings.source} watches no model", hint="name one there under `models:`"
        )
    wanted = os.path.realpath(folder)
    for model in models:
        if os.path.realpath(model.path) == wanted:
            return model
    path = _existing_folder(folder)
    raise errors.UsageError(
        f"{settings.source} is there already, and does not watch {path}",
        hint="add these lines to it under `models:`, then run `backupd snapshot`\n"
        + _model_lines(settings, path).rstrip(),
    )


def _model_lines(settings: Settings, folder: Path) -> str:
    """What `models:` needs to watch `folder` as it watches the first of its models."""
    from backupd.config.template import name_for, quote

    first = next(
        (model.targets for model in settings.models.values()),
        dict.fromkeys(settings.targets, tuple(settings.policies)[:1]),
    )
    targets = ", ".join(
        f"{quote(target)}: [{', '.join(map(quote, names))}]" for target, names in first.items()
    )
    return (
        f"  {quote(name_for(folder))}:\n"
        f"    path: {quote(str(folder))}\n"
        f"    targets: {{{targets}}}\n"
    )


def _shows_only_the_sample(places: Places) -> bool:
    """Whether the configuration is the one that a first quickstart wrote for its sample."""
    return places.config.read_bytes() == _render(places, places.sample).encode()


def _add_model(app: App, places: Places, settings: Settings, folder: Path) -> Settings:
    """The configuration of the sample with a model of the person's own added to it."""
    from backupd.config.load import check_text

    if os.path.realpath(folder) == os.path.realpath(places.sample):
        return settings
    lines = _model_lines(settings, folder) + '    schedule: "*/5 * * * *"\n'
    text = (_render(places, places.sample) + lines).encode()
    added, problems = check_text(text, places.config, app.environment)
    if added is None:
        raise problems[0].error()
    beside = places.config.with_name(f".{places.config.name}.new")
    beside.unlink(missing_ok=True)
    _write_new(beside, text)
    os.replace(beside, places.config)
    output.say(app, f"added {folder} to the models of {places.config}")
    return added


def _existing_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise errors.NotFoundError(
            f"there is no folder {printable(str(folder))}",
            hint="name the folder of a model; without one, quickstart makes a sample",
        )
    return folder.absolute()


def _sample_folder(app: App, places: Places) -> Path:
    if not places.sample.exists():
        sample.make_sample(places.sample)
        output.say(app, f"sample model: {places.sample}")
    return places.sample


def _render(places: Places, folder: Path) -> str:
    from backupd.config.template import name_for, render_template

    return render_template(
        model_name=name_for(folder),
        model=folder,
        target=places.repository,
        key_file=places.key,
        state_dir=places.state,
    )


def _initialise(app: App, settings: Settings) -> None:
    from backupd.operations.installation import open_installation
    from backupd.operations.setup import initialise

    with open_installation(settings, environment=app.environment, clock=app.clock) as installation:
        report = initialise(installation)
        if report.created or report.failed:
            say_init(app, installation, report)


def _write_new(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # O_EXCL: a configuration that came into being meanwhile is somebody's work.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _show_what_there_is(app: App, places: Places, model: ModelSettings) -> None:
    from backupd.cli.opening import opened
    from backupd.operations.catalog import list_snapshots

    output.say(app)
    with opened(app) as installation:
        say_snapshots(
            app,
            list_snapshots(installation, model=model.name),
            installation.settings.host,
        )
    typed = _typed_program(app)
    if not _is_default(app, places):
        typed += f" --config {shlex.quote(str(places.config))}"
    output.say(app)
    output.say(app, "Give it back, when the folder is lost or beside it:")
    output.say(app, f"    {typed} restore {model.name}@latest")
    output.say(app, f"    {typed} restore {model.name}@v1 --to /tmp/{model.name}-v1")


def _typed_program(app: App) -> str:
    """How to call this program again: by its path where the shell would not find it by name."""
    typed = Path(sys.argv[0])
    found = shutil.which("backupd", path=app.environment.get("PATH", ""))
    if typed.name != "backupd" or (found and os.path.realpath(found) == os.path.realpath(typed)):
        return "backupd"
    return shlex.quote(str(typed))


def _is_default(app: App, places: Places) -> bool:
    from backupd.config.find import user_file

    return places.config == user_file(app.environment)


def _watch(app: App, places: Places) -> int:
    from backupd.daemon.service import run

    output.say(app)
    output.say(app, "Watching now; Ctrl-C ends it.")
    return run(places.config, environment=app.environment, terminal=sys.stderr.isatty())
