"""What TAB offers: names of models, snapshots, targets and policies, and the shells' scripts.

Completion is silent: whatever goes wrong offers nothing. It is quick: only targets on this box
are looked at, nobody is asked for a passphrase, and after a second and a half it gives up.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from backupd.cli.app import App
from backupd.cli.formatting import local_time, pairs, size

if TYPE_CHECKING:
    from backupd.config.settings import Settings
    from backupd.operations.reports import SnapshotInfo

VARIABLE = "_BACKUPD_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
GIVE_UP_SECONDS = 1.5

# bash splits a word at each character of COMP_WORDBREAKS, of which `@`, `:` and `=` are three,
# and replaces only what stands behind the last: so the line itself is read, not COMP_WORDS.
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n'
    local response
    response=$(env COMP_LINE="${COMP_LINE:0:$COMP_POINT}" BREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null) || return 0
    local line
    for line in $response; do
        case "$line" in
            dir,*) COMPREPLY=(); compopt -o dirnames ;;
            file,*) COMPREPLY=(); compopt -o default ;;
            plain,*) COMPREPLY+=("${line#plain,}") ;;
        esac
    done
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _BashLine(BashComplete):
    """Completion for bash that keeps `MODEL@vN` one word."""

    source_template = _BASH

    @staticmethod
    def _check_version() -> None:
        """click asks bash for its version; a script that is only printed need not."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is typed, and that one."""
        line = os.environ.get("COMP_LINE", "")
        words = split_arg_string(line)
        if not words or line[-1:].isspace():
            return words[1:], ""
        return words[1:-1], words[-1]

    def format_completion(self, item: CompletionItem) -> str:
        """Only what follows the last character at which bash splits."""
        _, incomplete = self.get_completion_args()
        breaks = os.environ.get("BREAKS", "")
        start = max((incomplete.rfind(char) for char in breaks), default=-1) + 1
        value = item.value[start:] if item.value.startswith(incomplete[:start]) else item.value
        return f"{item.type},{value}"


def script(shell: str, cli: click.Command) -> str:
    """The text that makes `shell` complete `backupd`."""
    return _class_for(shell)(cli, {}, "backupd", VARIABLE).source()


def answer(cli: click.Command, instruction: str) -> int:
    """Answers one TAB (`bash_complete`) or prints a script (`bash_source`) for click's protocol."""
    shell, _, wanted = instruction.partition("_")
    if shell not in SHELLS:
        return 1
    try:
        with _time_limit():
            complete = _class_for(shell)(cli, {}, "backupd", VARIABLE)
            click.echo(complete.source() if wanted == "source" else complete.complete())
    except Exception:
        return 1
    return 0


def _class_for(shell: str) -> type[ShellComplete]:
    add_completion_class(_BashLine)
    found = get_completion_class(shell)
    if found is None:
        raise ValueError(f"no completion for {shell}")
    return found


class _TooLateError(Exception):
    """Completion takes longer than anyone waits."""


@contextmanager
def _time_limit() -> Iterator[None]:
    def give_up(number: int, frame: FrameType | None) -> None:
        raise _TooLateError

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, GIVE_UP_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _app(ctx: click.Context) -> App:
    """The common options as far as they are typed; callbacks do not run in completion."""
    app = ctx.find_object(App) or App()
    here: click.Context | None = ctx
    while here is not None:
        app.config = here.params.get("config") or app.config
        here = here.parent
    return app


def _settings(ctx: click.Context) -> Settings:
    from backupd.cli.opening import load_settings

    return load_settings(_app(ctx), quickly=True)


def _silent(
    offer: Callable[[click.Context, str], Iterable[CompletionItem]],
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Makes `offer` a completer of click's that offers nothing where it fails."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            return [item for item in offer(ctx, incomplete) if item.value.startswith(incomplete)]
        except _TooLateError:
            return []
        except Exception:
            return []

    return complete


def _offer_models(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    for model in _settings(ctx).models.values():
        yield CompletionItem(model.name, help=str(model.path))


def _offer_targets(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    for name in _settings(ctx).targets:
        yield CompletionItem(name)


def _offer_snapshots(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    settings = _settings(ctx)
    model, at, _ = incomplete.partition("@")
    if not at:
        for name in settings.models:
            yield CompletionItem(f"{name}@latest", help="the newest")
        if sum(name.startswith(incomplete) for name in settings.models) != 1:
            return
        model = next(name for name in settings.models if name.startswith(incomplete))
    else:
        yield CompletionItem(f"{model}@latest", help="the newest")
    for info in reversed(_near_snapshots(_app(ctx), settings, model)):
        shown = ", ".join(
            part
            for part in (local_time(info.time), size(info.size_bytes), pairs(info.labels))
            if part
        )
        yield CompletionItem(info.name, help=shown)


def _near_snapshots(app: App, settings: Settings, model: str) -> list[SnapshotInfo]:
    from backupd.config.settings import LocalTarget, NasTarget
    from backupd.operations.catalog import list_snapshots
    from backupd.operations.installation import open_installation

    near = [
        name
        for name, target in settings.targets.items()
        if isinstance(target, LocalTarget | NasTarget)
    ]
    if not near:
        return []
    with open_installation(settings, environment=app.environment, clock=app.clock) as installation:
        return list_snapshots(installation, model=model, targets=near[:1])


def _offer_versions(ctx: click.Context, incomplete: str) -> Iterator[CompletionItem]:
    """Versions of the model that stands before, as `v12`."""
    model = str(ctx.params.get("model") or "")
    yield CompletionItem("latest", help="the newest")
    for info in reversed(_near_snapshots(_app(ctx), _settings(ctx), model)):
        told = (local_time(info.time), size(info.size_bytes), pairs(info.labels))
        yield CompletionItem(f"v{info.version}", help=", ".join(filter(None, told)))


complete_models = _silent(_offer_models)
complete_targets = _silent(_offer_targets)
complete_snapshots = _silent(_offer_snapshots)
complete_versions = _silent(_offer_versions)
