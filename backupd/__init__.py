"""backupd: the backup daemon for training boxes."""

__version__ = "0.1.0"
