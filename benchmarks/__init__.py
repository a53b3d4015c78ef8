"""Measures backupd beside cp, rsync, restic and borg: `python -m benchmarks`."""
