"""The functions that a libvirt network hands out, on a host that has such a network."""

from __future__ import annotations

import pytest
from api import Api, codes, refused

from hostdev.v1 import device_pb2


@pytest.fixture
def function(roles: dict[str, str]) -> str:
    if "vf_pool_0" not in roles:
        pytest.skip("QEMU 7.2 has no NIC with SR-IOV for the lab")
    return roles["vf_pool_0"]


def test_a_free_function_of_a_pool_is_in_use_by_its_network(api: Api, function: str) -> None:
    device = api.device(function)
    (use,) = device.host_uses
    assert (use.kind, use.detail) == (device_pb2.HOST_USE_KIND_NETWORK_POOL, "vf-pool")
    assert codes(device.eligibility.reasons) == ["HOST_IN_USE"]
    assert device.eligibility.reasons[0].remedy
    assert function not in api.eligible()


def test_it_cannot_be_attached(api: Api, function: str) -> None:
    with refused("DEVICE_NOT_ELIGIBLE") as caught:
        api.attach("alpha", function)
    assert codes(caught[0].reasons) == ["HOST_IN_USE"]
