"""Only in the lab's profile "systemd": hostdevd by its own unit, as its own user, under polkit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hosts import LabHost, unit_host
from readiness import as_before, in_step, state_of


@pytest.fixture(scope="session")
def served() -> Iterator[LabHost]:
    with unit_host() as host:
        in_step(host.api)
        yield host


@pytest.fixture
def lab(served: LabHost) -> Iterator[LabHost]:
    """In step with its libvirt when a test begins, and as it was when it has ended."""
    in_step(served.api)
    before = state_of(served.api)
    yield served
    in_step(served.api)
    as_before(served.api, before)
