"""Only in the lab: what needs a real kernel, a real libvirt and a real guest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hosts import BY_UNIT, UNIT, LabHost, lab_host
from readiness import as_before, in_step, state_of

from production.systemctl import systemctl


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabHost]:
    with lab_host(tmp_path_factory.mktemp("lab")) as host:
        in_step(host.api)
        yield host


@pytest.fixture
def lab(served: LabHost) -> Iterator[LabHost]:
    """The lab, in step with its libvirt when a test begins, and as it was when it has ended.

    Not only for the test's own sake: what it did to libvirtd must have been got over before the next one asks.
    """
    if BY_UNIT:
        systemctl("start", UNIT)  # a test that failed may have left it dead
    in_step(served.api)
    before = state_of(served.api)
    yield served
    in_step(served.api)
    as_before(served.api, before)
