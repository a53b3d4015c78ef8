"""`python -m backupd`, and the console script."""

from __future__ import annotations

import sys

from backupd.cli.main import main as run


def main() -> None:
    """Runs the command line of this process and ends with its exit code."""
    sys.exit(run())


if __name__ == "__main__":
    main()
