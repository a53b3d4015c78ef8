"""Retention and naming as pure functions of values."""
