"""`init --from`: this box in place of the one that is gone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backupd import errors
from backupd.cli import output
from backupd.cli.app import App
from backupd.cli.commands.setup import init_document, say_init
from backupd.cli.formatting import local_time, printable
from backupd.cli.opening import opened

if TYPE_CHECKING:
    from backupd.config.settings import Settings, TargetSettings
    from backupd.operations.rebuild import LostBox
    from backupd.targets.base import Target


def set_up_from(app: App, location: str, host: str) -> int:
    """Write the configuration and the key, make the targets that are missing; the exit code."""
    from backupd.config.find import VARIABLE
    from backupd.operations import rebuild

    named = app.config or app.environment.get(VARIABLE, "")
    app.config = ""  # what it names is to be made
    with opened(app, location) as lost:
        [name] = lost.settings.targets
        repository = lost.repository(name)
        box = rebuild.choose_box(*_asked(app, rebuild.lost_boxes(repository), host))
        assert box.configured is not None
        path = (
            Path(named).absolute()
            if named
            else rebuild.new_config_path(box.configured, app.environment, root=os.geteuid() == 0)
        )
        if path.exists():
            raise errors.BackupdError(
                f"{path} is there already, and is not written over",
                hint="move it away, or name another file with --config",
            )
        settings, text = _rebuilt(app, box, path)
        if settings.key.encryption and repository.descriptor.encrypted:
            key_file = rebuild.write_secret(settings.key, lost.secret())
        else:
            key_file = None
        rebuild.write_new(path, text.encode())
        output.say(
            app,
            f"configuration: {path}, as {box.host} had it on {local_time(box.configured.time)}",
        )
        if key_file:
            output.say(app, f"key file: {key_file} (readable by you alone)")
        place = lost.settings.targets[name]
        for target in settings.targets.values():
            if written := rebuild.write_credentials(target, place, app.environment):
                output.say(app, f"credentials of {target.name}: {written}, from the environment")
        code = _make_targets(app, settings, lost.target(name))
        _say_next(app, settings, text, place)
    return code


def _asked(app: App, boxes: list[LostBox], host: str) -> tuple[list[LostBox], str]:
    """The boxes and the host that is meant, asked for where a person sits there."""
    if host or len(boxes) == 1 or not sys.stdin.isatty() or app.json:
        return boxes, host
    for box in boxes:
        output.say(app, f"  {box.host}, newest snapshot of {local_time(box.newest.time)}")
    names = click.Choice([box.host for box in boxes])
    return boxes, str(click.prompt("Which of them is this box to be?", type=names, err=True))


def _rebuilt(app: App, box: LostBox, path: Path) -> tuple[Settings, str]:
    """The lost box's configuration for this one. Raises `ConfigError` where it is not valid."""
    from backupd.config.keeping import rebuilt
    from backupd.config.load import check_text

    assert box.configured is not None
    text = rebuilt(box.configured.config, host=box.host, key_file=str(path.with_name("key")))
    settings, problems = check_text(text.encode(), path, app.environment)
    if settings is None:
        beside = path.with_name(path.name + ".kept")
        from backupd.operations.rebuild import write_new

        write_new(beside, text.encode())
        error = problems[0].error()
        error.hint = f"it was written to {beside}; mend it there, and move it to {path}"
        raise error
    return settings, text


def _make_targets(app: App, settings: Settings, source: Target) -> int:
    from backupd.operations.installation import open_installation
    from backupd.operations.setup import initialise

    with open_installation(settings, environment=app.environment, clock=app.clock) as installation:
        try:
            report = initialise(installation, source=source)
        except errors.TargetError as error:
            output.document(app, {"configuration": str(settings.source), "targets": None})
            output.warn(app, f"{error}; `backupd init` makes the targets when they can be reached")
            return errors.EXIT_PARTIAL
        output.document(
            app, {"configuration": str(settings.source), "targets": init_document(report)}
        )
        say_init(app, installation, report)
    return errors.EXIT_PARTIAL if report.failed else errors.EXIT_DONE


def _say_next(app: App, settings: Settings, text: str, source: TargetSettings) -> None:
    """What a person has to do by hand, and what comes then."""
    from backupd.config.keeping import left_out_lines
    from backupd.config.settings import S3Target
    from backupd.operations.rebuild import same_place

    if lines := left_out_lines(text):
        where = ", ".join(map(str, lines))
        output.warn(app, f"fill in what was left out (***) of {settings.source}: line {where}")
    for target in settings.targets.values():
        if not isinstance(target, S3Target):
            continue
        for file in (target.credentials_file, target.sse_customer_key_file, target.ca_bundle):
            if file is not None and not file.exists():
                output.warn(app, f"{target.name} needs {file}, which was not kept")
    if not any(same_place(target, source) for target in settings.targets.values()):
        output.warn(
            app, f"no target of {settings.source} is this repository: correct its place there"
        )
    missing = [model for model in settings.models.values() if not model.path.exists()]
    if missing:
        output.say(app, "\nNext, where the models belong:")
        for model in missing:
            output.say(app, f"    backupd restore {printable(model.name)}@latest")
    output.say(app, "\nThen `backupd sync` and `backupd run`, or the service (docs/operating.md).")
