"""Container formats: turns a file into a table of the tensors it holds.

Structure is read, never content: nothing is unpickled, imported or evaluated, and what is not
understood is opaque. `identify` is the one door.
"""

from __future__ import annotations

from backupd.capture.containers.bounded import ReadAt, read_at_descriptor
from backupd.capture.containers.identify import identify
from backupd.capture.containers.regions import Layout, TensorRegion

__all__ = ["Layout", "ReadAt", "TensorRegion", "identify", "read_at_descriptor"]
