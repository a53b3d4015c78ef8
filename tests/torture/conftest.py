"""Fixtures of the torture tests."""

from tests.support.world import small_packs as small_packs
