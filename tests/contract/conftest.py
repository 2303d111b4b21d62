"""One suite, two hosts: `HOSTDEVD_CONTRACT_HOST=lab` inside the lab, the simulated host everywhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from api import Api, eventually
from hosts import Host, lab_host, simulated_host

IN_LAB = os.environ.get("HOSTDEVD_CONTRACT_HOST") == "lab"


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    directory = tmp_path_factory.mktemp("h")
    with (lab_host if IN_LAB else simulated_host)(directory) as served:
        eventually(lambda: _answers(served.api), bool)
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
    before = _state(host.api)
    yield
    eventually(lambda: _state(host.api), lambda now: now == before)


def _state(api: Api) -> tuple[dict[str, str], set[tuple[str, str]]]:
    drivers = {device.name: device.driver for device in api.devices(types=["pci"])}
    return drivers, {(holder.vm.name, holder.uid) for holder in api.holders()}


def _answers(api: Api) -> bool:
    try:
        return bool(api.devices())
    except Exception:  # noqa: BLE001  not synchronised yet
        return False
