"""`python -m backupd`, and the console script."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line of this process and ends with its exit code."""
    # numpy's BLAS starts a spinning thread for each core as it is imported; nothing here uses it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        # Imported here, so that Ctrl-C while the interpreter still imports is no traceback.
        from backupd.cli.main import main as run

        code = run()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
