"""Only in the lab: what needs a real kernel, a real libvirt and a real guest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api import Api, eventually
from hosts import LabHost, lab_host


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabHost]:
    with lab_host(tmp_path_factory.mktemp("lab")) as served:
        eventually(lambda: _devices(served.api), bool)
        yield served


def _devices(api: Api) -> int:
    try:
        return len(api.devices())
    except Exception:  # noqa: BLE001  not synchronised yet
        return 0
