"""Other programs, run to be asked something: as the owner of what they look at, for a bounded
time, in an environment that is made here, with as much of their answer as was asked for.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

from backupd.errors import BackupdError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FOLDER = "backupd-code-"
_QUICK_SECONDS = 10.0
_LEFT_SECONDS = 86_400.0
_SAID_BYTES = 4096
_SAID_LINES = 3
MOST_BYTES = 64 << 20


class ProgramError(BackupdError):
    """A program is not there, did not end in time, said too much, or ended with `code`.

    `code` is its exit status, or None where it has none.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the box, as a process of its own would run."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    name: str


def account_of(folder: bytes) -> Account | None:
    """Who a program that looks at `folder` is to run as; None for whoever runs this.

    It is the folder's owner where this is root and that is another. Raises `OSError`.
    """
    if os.geteuid() != 0:
        return None
    found = os.stat(folder)
    if found.st_uid == 0:
        return None
    import pwd

    try:
        entry = pwd.getpwuid(found.st_uid)
    except KeyError:
        return Account(found.st_uid, found.st_gid, (), "/", str(found.st_uid))
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Account(entry.pw_uid, entry.pw_gid, groups, entry.pw_dir, entry.pw_name)


def may_become(account: Account) -> bool:
    """Whether this process may run others as that user: systemd's sandbox takes the right away."""
    return _run_as(account, ["true"])


@dataclass(frozen=True, slots=True)
class Programs:
    """Runs programs in `folder` as `account` (None: as this process).

    `environment` is that of this process, of which a few variables are handed on; `seconds` is
    the most that one run may take.
    """

    folder: bytes
    environment: Mapping[str, str]
    account: Account | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 120.0

    def run(
        self,
        arguments: Sequence[str | bytes],
        *,
        given: bytes = b"",
        variables: Mapping[str, str] | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> bytes:
        """The output of a program that is given `given`. Raises `ProgramError`."""
        with self.stream(arguments, given=given, variables=variables) as output:
            answer = output.read(most_bytes + 1)
            if len(answer) > most_bytes:
                raise ProgramError(f"{_named(arguments)} says more than {most_bytes:,} bytes")
        return answer

    @contextmanager
    def stream(
        self,
        arguments: Sequence[str | bytes],
        *,
        given: bytes = b"",
        variables: Mapping[str, str] | None = None,
    ) -> Iterator[IO[bytes]]:
        """A program's output, to be read to its end. Raises `ProgramError`, at the end too."""
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as said:
            stdin.write(given)
            stdin.seek(0)
            process = self._start(arguments, stdin, said, {**self.variables, **(variables or {})})
            late = threading.Event()

            def give_up() -> None:
                late.set()
                _end(process, self.account)

            timer = threading.Timer(self.seconds, give_up)
            timer.daemon = True
            timer.start()
            assert process.stdout is not None
            try:
                with process.stdout:
                    yield process.stdout
                process.wait()
            finally:
                timer.cancel()
                _end(process, self.account)
                process.wait()
            if late.is_set():
                raise ProgramError(f"{_named(arguments)} did not end in {self.seconds:.0f} s")
            if process.returncode:
                said.seek(0)
                text = said.read(_SAID_BYTES).decode("utf-8", "replace").strip()
                why = _why(text) or f"it ended with {process.returncode}"
                raise ProgramError(f"{_named(arguments)}: {_printable(why)}", process.returncode)

    def _start(
        self,
        arguments: Sequence[str | bytes],
        stdin: IO[bytes],
        said: IO[bytes],
        variables: Mapping[str, str],
    ) -> subprocess.Popen[bytes]:
        account = self.account
        environment = {
            "PATH": self.environment.get("PATH", _PATH),
            "HOME": account.home if account else self.environment.get("HOME", "/"),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            **variables,
        }
        if account:
            environment |= {"USER": account.name, "LOGNAME": account.name}
        try:
            return subprocess.Popen(
                list(arguments),
                cwd=self.folder,
                env=environment,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=account.groups if account else None,
                umask=0o022 if account else -1,
            )
        except FileNotFoundError:
            raise ProgramError(f"{_named(arguments)} is not installed") from None
        except (OSError, subprocess.SubprocessError) as error:
            raise ProgramError(f"{_named(arguments)} cannot be run: {error}") from None


@contextmanager
def working_folder(programs: Programs) -> Iterator[bytes]:
    """A folder for what programs write, which goes away again; it is that of whom they run as.

    Raises `ProgramError`.
    """
    if programs.account is None:
        with tempfile.TemporaryDirectory(prefix=_FOLDER, ignore_cleanup_errors=True) as folder:
            _sweep(os.fsencode(folder))
            yield os.fsencode(folder)
        return
    # Made and removed by its owner: systemd's sandbox takes away the right to hand it over.
    template = os.path.join(tempfile.gettempdir(), _FOLDER + "XXXXXXXXXX")
    made = programs.run(["mktemp", "--directory", template]).rstrip(b"\n")
    try:
        _sweep(made)
        yield made
    finally:
        try:
            programs.run(["rm", "--recursive", "--force", "--", made])
        except ProgramError:
            pass  # what was asked is answered; the folder is small, and in no one's way


def _sweep(made: bytes) -> None:
    """Remove what runs that were killed left beside a new folder, a day before it or earlier."""
    try:
        new = os.stat(made)
        with os.scandir(os.path.dirname(made)) as entries:
            ours = [entry for entry in entries if entry.name.startswith(_FOLDER.encode())]
        for entry in ours:
            found = entry.stat(follow_symlinks=False)
            old = new.st_mtime - found.st_mtime > _LEFT_SECONDS
            if old and found.st_uid == new.st_uid and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
    except OSError:
        return  # the next run tries again


def _named(arguments: Sequence[str | bytes]) -> str:
    """The program, and of git what it was asked."""
    words = [word if isinstance(word, str) else os.fsdecode(word) for word in arguments]
    name = os.path.basename(words[0])
    told = next((word for word in words[1:] if word[:1].isalpha()), "")
    return f"{name} {told}".strip()


def _why(text: str) -> str:
    """What a program said of its failure: the lines that say so themselves, else the last ones."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if line.startswith(("fatal:", "error:", "remote:", "svn: E"))]
    return "; ".join((marked or lines[-_SAID_LINES:])[:_SAID_LINES])


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)[:300]


def _end(process: subprocess.Popen[bytes], account: Account | None) -> None:
    """End it with all it started: it leads a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except PermissionError:
        # In systemd's sandbox root may not end what runs as another, who may.
        if account is not None and process.poll() is None:
            _run_as(account, ["kill", "-KILL", "--", f"-{process.pid}"])
    except OSError:
        pass


def _run_as(account: Account, arguments: Sequence[str]) -> bool:
    """Run a program of the system, silently; whether it said that all is well."""
    try:
        done = subprocess.run(
            arguments,
            user=account.uid,
            group=account.gid,
            extra_groups=account.groups,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": _PATH},
            check=False,
            timeout=_QUICK_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
