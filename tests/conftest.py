"""Fixtures that tests of every folder may use; each is made in its own file under `rigs`."""

from hypothesis import HealthCheck, settings

from tests.rigs.rclone import rclone_server as rclone_server
from tests.rigs.rgw import s3_server as s3_server
from tests.rigs.swift import swift_server as swift_server
from tests.support.racing import at_once as at_once

# How long an example takes says more of the machine's other work than of the code.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples each time, so that what fails was made to fail by what has changed.
settings.register_profile("backupd", _PATIENT, derandomize=True)
# `pytest --hypothesis-profile=chance` looks for what other examples find.
settings.register_profile("chance", _PATIENT, derandomize=False)
settings.load_profile("backupd")
