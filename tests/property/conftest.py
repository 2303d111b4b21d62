"""How long to look: `HOSTDEVD_SOAK` names a hypothesis profile (`ci`, the default, or `soak`).

`ci` tries the same sequences at every run; `soak` new ones each time, until `HOSTDEVD_SOAK_EXAMPLES` of them
(default 2000) have passed, and prints how to try again what failed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

_COMMON = settings(deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck))

settings.register_profile("ci", _COMMON, derandomize=True, max_examples=60, stateful_step_count=25)
settings.register_profile(
    "soak",
    _COMMON,
    max_examples=int(os.environ.get("HOSTDEVD_SOAK_EXAMPLES", "2000")),
    stateful_step_count=40,
)
PROFILE = os.environ.get("HOSTDEVD_SOAK", "ci")


@pytest.fixture(autouse=True)
def _profile() -> Iterator[None]:
    """Only in this directory: what other tests set up stays theirs."""
    structlog.configure(processors=[_drop])
    yield
    structlog.reset_defaults()


def _drop(*_: object) -> str:
    """What is injected is logged, with tracebacks: printing them takes longer than the tests themselves."""
    raise structlog.DropEvent
