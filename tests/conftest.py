"""Fixtures that tests of every folder may use; each is made in its own file under `rigs`."""

from hypothesis import settings

from tests.rigs.rclone import rclone_server as rclone_server
from tests.rigs.rgw import s3_server as s3_server
from tests.rigs.swift import swift_server as swift_server
from tests.support.racing import at_once as at_once

# How long an example takes says more of the machine's other work than of the code.
settings.register_profile("backupd", deadline=None)
settings.load_profile("backupd")
