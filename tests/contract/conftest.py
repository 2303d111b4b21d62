"""One suite, two hosts: `HOSTDEVD_CONTRACT_HOST=lab` (or `unit`) inside the lab, the simulated one everywhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from api import Api
from hosts import Host, lab_host, simulated_host
from readiness import as_before, in_step, state_of

IN_LAB = os.environ.get("HOSTDEVD_CONTRACT_HOST") in {"lab", "unit"}


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    directory = tmp_path_factory.mktemp("h")
    with (lab_host if IN_LAB else simulated_host)(directory) as served:
        yield served


@pytest.fixture
def api(host: Host) -> Api:
    return host.api


@pytest.fixture
def roles(host: Host) -> dict[str, str]:
    return host.roles


@pytest.fixture(autouse=True)
def _nothing_is_left(host: Host) -> Iterator[None]:
    """Whatever a test does, every driver and holder is as before when it ends."""
    in_step(host.api)
    before = state_of(host.api)
    yield
    in_step(host.api)
    as_before(host.api, before)
