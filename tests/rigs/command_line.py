"""The real `backupd`, run as a person would: in a home folder of its own, in another process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from backupd.cli.main import main

SECONDS = 240


@dataclass(frozen=True, slots=True)
class Answer:
    """How one command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the one JSON document that `--json` promises."""
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Runs commands with `home` as HOME and nothing else of the machine's environment.

    `in_process` calls the program as a function, which is ten times as quick; what has to do
    with signals, pipes, terminals or imports is run with `process`.
    """

    home: Path
    in_process: bool = False

    def __call__(self, *arguments: str | Path, **environment: str) -> Answer:
        if self.in_process:
            return self._call(*arguments, **environment)
        return self.process(*arguments, **environment)

    def process(self, *arguments: str | Path, **environment: str) -> Answer:
        """In a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "backupd", *map(str, arguments)],
            env=self.environment(**environment),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Answer(done.returncode, done.stdout, done.stderr)

    def _call(self, *arguments: str | Path, **environment: str) -> Answer:
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment(**environment), clear=True),
            mock.patch("sys.stdin", io.StringIO()),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = main([str(argument) for argument in arguments])
        assert "this is a bug" not in err.getvalue(), err.getvalue()
        return Answer(code, out.getvalue(), err.getvalue())

    def ok(self, *arguments: str | Path, **environment: str) -> Answer:
        """As a call, for what must end with 0."""
        answer = self(*arguments, **environment)
        assert answer.code == 0, (arguments, answer)
        return answer

    def environment(self, **more: str) -> dict[str, str]:
        """What the processes see. The package is found wherever the tests found it."""
        package = Path(__file__).parents[2]
        return {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(package),
            "LANG": "C.UTF-8",
            **more,
        }

    @property
    def config(self) -> Path:
        """Where `quickstart` writes the configuration."""
        return self.home / ".config/backupd/backupd.yaml"

    @property
    def key(self) -> Path:
        """The key file that `quickstart` makes."""
        return self.home / ".config/backupd/key"

    @property
    def repository(self) -> Path:
        """The repository that `quickstart` makes."""
        return self.home / ".local/share/backupd/repository"
