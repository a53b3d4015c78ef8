"""The daemon's life: start, loop, reload, stop. What it does meanwhile is in `engine`.

One loop in the main thread schedules, obeys signals and feeds systemd's watchdog, so feeding it
proves that the scheduling is alive.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from backupd.config.load import load_config
from backupd.config.settings import Settings
from backupd.daemon.answers import Answers
from backupd.daemon.control import ControlServer
from backupd.daemon.engine import Clocks, Engine
from backupd.daemon.limits import apply_limits
from backupd.daemon.lock import DaemonLock
from backupd.daemon.logs import LibraryHandler, make_log
from backupd.daemon.messages import Messenger
from backupd.daemon.notify import Notifier
from backupd.daemon.page import StatusPage
from backupd.daemon.queue import State
from backupd.daemon.state import STATE_NAME, StateStore
from backupd.daemon.verbs import Verbs, real_verbs
from backupd.daemon.wire import TRAINER_SOCKET_NAME
from backupd.errors import EXIT_DONE, EXIT_INTERRUPTED, BackupdError, ConfigError

if TYPE_CHECKING:
    from backupd.daemon.logs import Log

# Of the 10 s in which the daemon ends, what jobs have; then the process goes without them.
STOP_JOBS_SECONDS = 8.0
STOP_SECONDS = 9.5
# The longest pause of the loop: by then a clock that was set is noticed.
PAUSE_SECONDS = 5.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(config: Path, *, environment: Mapping[str, str], terminal: bool) -> int:
    """Run the daemon until SIGTERM or SIGINT; the exit code.

    `terminal` says whether a person reads standard error. Raises `ConfigError`, `WrongKeyError`
    (the key cannot be read), `BackupdError` (another daemon runs, the state folder is unusable).
    """
    log = make_log(sys.stderr, terminal=terminal)
    service = Service(lambda: load_config(config, environment), environment=environment, log=log)
    return service.run()


class Service:
    """One daemon. `run` is called once; `stop` and `reload` from any thread."""

    def __init__(
        self,
        load: Callable[[], Settings],
        *,
        environment: Mapping[str, str],
        log: Log,
        verbs: Verbs | None = None,
        wall: Callable[[], float] = time.time,
        abort: Callable[[int], object] = os._exit,
    ) -> None:
        """`abort` ends the process at once; it is called where jobs do not stop in time."""
        self._load = load
        self._environment = environment
        self._log = log
        self._verbs = verbs
        self._clocks = Clocks(wall, time.monotonic)
        self._abort = abort
        self._notifier = Notifier(environment, monotonic=time.monotonic)
        # Signal numbers, and 0 for "look again". What a signal handler wrote to anything with a
        # lock could deadlock with the loop; a pipe that it polls cannot.
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        self._reloaded: dict[str, object] = {"time": None, "error": ""}

    def stop(self) -> None:
        """As SIGTERM does."""
        self._send(signal.SIGTERM)

    def reload(self) -> None:
        """As SIGHUP does."""
        self._send(signal.SIGHUP)

    def run(self) -> int:
        """See `run` of this module."""
        settings = self._load()
        with DaemonLock(settings.state_dir):
            self._take_little(settings)
            verbs = self._verbs or real_verbs()
            # A key that is not there does not mend itself, so this ends the start.
            with verbs.open(
                settings, environment=self._environment, clock=self._clocks.wall
            ) as installation:
                if settings.key.encryption:
                    installation.secret()
            store = StateStore(settings.state_dir / STATE_NAME)
            if store.problem:
                self._log.warning(store.problem)
            for warning in settings.warnings:
                self._log.warning(warning)
            engine = Engine(
                settings,
                verbs=verbs,
                environment=self._environment,
                clocks=self._clocks,
                store=store,
                log=self._log,
                on_end=lambda: self._send(0),
            )
            answers = Answers(engine, self._reload_status)
            control = ControlServer(
                settings.state_dir,
                answers,
                log=self._log,
                allowed=frozenset({0, os.geteuid()}),
            )
            trainers = self._trainers(answers)
            page = StatusPage(answers.status, log=self._log)
            messenger = Messenger(
                settings=lambda: engine.settings.notify,
                status=answers.status,
                host=lambda: engine.settings.host,
                state_dir=settings.state_dir,
                clock=self._clocks.wall,
                log=self._log,
            )
            with _Signals(self._ring), _LibraryLog(self._log):
                engine.queue.start()
                control.start()
                if trainers is not None:
                    trainers.start()
                page.apply(settings.status_listen)
                messenger.start()
                self._log.info(
                    "the daemon runs",
                    models=list(settings.models),
                    targets=list(settings.targets),
                    state_dir=str(settings.state_dir),
                )
                self._notifier.ready(self._summary(engine))
                self._loop(engine, control, page)
                messenger.close()
                page.close()
                if trainers is not None:
                    trainers.close()
                return self._end(engine, control)

    def _trainers(self, answers: Answers) -> ControlServer | None:
        """The socket for training programs of any user, in the runtime folder of systemd.

        Without that folder they use the control socket, which is their own user's then.
        """
        folder = self._environment.get("RUNTIME_DIRECTORY", "").split(":")[0]
        if not folder.startswith("/"):
            return None
        try:
            return ControlServer(
                Path(folder),
                answers.for_trainer,
                log=self._log,
                allowed=None,
                name=TRAINER_SOCKET_NAME,
            )
        except BackupdError as error:
            self._log.warning(error.message, hint=error.hint)
            return None

    def _loop(self, engine: Engine, control: ControlServer, page: StatusPage) -> None:
        """Turns until it is told to stop. Nothing in it may wait for a disk or a network."""
        watchdog = self._notifier.watchdog_seconds
        longest = min(PAUSE_SECONDS, watchdog / 3) if watchdog else PAUSE_SECONDS
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        said = ""
        while True:
            pause = min(engine.tick(), longest)
            # The loop has just scheduled; a worker or the socket's thread that died is as bad.
            if engine.queue.alive() and control.alive():
                self._notifier.alive()
            summary = self._summary(engine)
            if summary != said:
                said = summary
                self._notifier.status(summary)
            poll.poll(pause * 1000)
            rung = self._heard()
            if signal.SIGTERM in rung or signal.SIGINT in rung:
                return
            if signal.SIGHUP in rung:
                self._take_configuration(engine)
                page.apply(engine.settings.status_listen)
                said = ""

    def _take_configuration(self, engine: Engine) -> None:
        """Take a new configuration whole, or keep the old one and say why."""
        self._notifier.reloading()
        error = ""
        try:
            settings = self._load()
            if settings.state_dir != engine.settings.state_dir:
                raise ConfigError(
                    f"state_dir cannot change from {engine.settings.state_dir} while the daemon "
                    "runs",
                    file=str(settings.source),
                    hint="restart the daemon instead",
                )
            engine.apply(settings)
        except BackupdError as refused:
            error = str(refused)
            self._log.error(
                f"the new configuration is refused, the old one stays: {error}", hint=refused.hint
            )
        except Exception as bug:
            error = f"{type(bug).__name__}: {bug}"
            self._log.exception("the new configuration is refused, the old one stays")
        else:
            self._take_little(settings)
            self._log.info("the new configuration is in force", models=list(settings.models))
            for warning in settings.warnings:
                self._log.warning(warning)
        self._reloaded = {"time": self._clocks.wall(), "error": error}
        self._notifier.ready(self._summary(engine))

    def _end(self, engine: Engine, control: ControlServer) -> int:
        """Stop what runs; what was uploaded is kept, and the next snapshot resumes."""
        running = [t.job.key for t in engine.queue.tickets() if t.state is State.RUNNING]
        self._log.info("stopping", running=running)
        self._notifier.stopping("stopping" + (f" {', '.join(running)}" if running else ""))
        # Not cancelled: a thread that some library left behind is not waited for either.
        last = threading.Timer(STOP_SECONDS, self._abort, (EXIT_DONE,))
        last.daemon = True
        last.start()
        engine.queue.stop()
        deadline = time.monotonic() + STOP_JOBS_SECONDS
        while not engine.queue.join(0.05) and time.monotonic() < deadline:
            rung = self._heard()
            if signal.SIGTERM in rung or signal.SIGINT in rung:
                self._abort(EXIT_INTERRUPTED)
        control.drain(0.5)
        control.close()
        try:
            engine.close()
        except OSError as error:
            self._log.error(f"the state cannot be written: {error.strerror}")
        if engine.queue.join(0):
            self._log.info("stopped")
        else:
            self._log.warning("stopped without waiting any longer for the jobs that run")
            self._abort(EXIT_DONE)
        return EXIT_DONE

    def _take_little(self, settings: Settings) -> None:
        for problem in apply_limits(settings.limits):
            self._log.warning(problem)

    def _reload_status(self) -> Mapping[str, object]:
        return self._reloaded

    def _summary(self, engine: Engine) -> str:
        """One line for `systemctl status`."""
        tickets = engine.queue.tickets()
        running = [t.job.key for t in tickets if t.state is State.RUNNING]
        models = len(engine.settings.models)
        text = f"{models} model{'s' if models != 1 else ''}"
        if running:
            text += f", now {', '.join(running)}"
        if self._reloaded["error"]:
            text += "; the last reload was refused, see the log"
        return text

    def _send(self, number: int) -> None:
        try:
            self._ring.send(bytes([number]))
        except OSError:
            pass  # Full: the loop has been woken, and a signal of each kind is in it.

    def _heard(self) -> frozenset[int]:
        try:
            return frozenset(self._bell.recv(4096))
        except BlockingIOError:
            return frozenset()


class _Signals:
    """Turns signals into bytes of a socket while in force. Other threads have none to catch."""

    def __init__(self, ring: socket.socket) -> None:
        self._ring = ring
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> None:
        if self._main:
            self._wakeup = signal.set_wakeup_fd(self._ring.fileno(), warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, _ignore) for number in _SIGNALS}

    def __exit__(self, *_: object) -> None:
        if self._main:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Python writes the number to the wakeup descriptor; nothing else is to be done."""


class _LibraryLog:
    """While in force, warnings of libraries and threads that die are in the daemon's log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._handler = LibraryHandler(log)

    def __enter__(self) -> None:
        logging.getLogger().addHandler(self._handler)
        logging.captureWarnings(True)
        # watchdog 7.1 sees a folder made within a new one twice, and warns of it.
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning, r"watchdog\.")
        self._before, threading.excepthook = threading.excepthook, self._died

    def __exit__(self, *_: object) -> None:
        threading.excepthook = self._before
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(self._handler)

    def _died(self, about: threading.ExceptHookArgs) -> None:
        name = about.thread.name if about.thread is not None else "unknown"
        self._log.error(f"the thread {name} died", exc_info=about.exc_value)
