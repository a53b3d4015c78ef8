"""What reading a configuration promises whatever it is given."""

from __future__ import annotations

import time
from pathlib import Path

from backupd.config.load import check_text
from backupd.errors import ConfigError

CONFIGURATION = Path("backupd.yaml")


def check_configuration(data: bytes) -> None:
    """That `data` is a configuration, or is refused in words with a place and a mend, in time."""
    begun = time.process_time()
    try:
        accepted, problems = check_text(data, CONFIGURATION, {})
    except ConfigError as error:
        assert error.file == str(CONFIGURATION)
        assert error.message and error.hint
    else:
        assert (accepted is None) == bool(problems)
        for problem in problems:
            assert problem.line >= 1
            assert problem.message and problem.hint
            assert problem.line <= data.count(b"\n") + data.count(b"\r") + 1
    assert time.process_time() - begun < 5
