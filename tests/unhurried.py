"""A plugin of pytest's for all tests: hypothesis does not judge by time, which says something of the machine alone."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
