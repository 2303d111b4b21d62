"""Whose request id it is."""

from __future__ import annotations

import pytest

from hostdevd.core.caller import LOOPBACK, Caller, Proof
from hostdevd.core.errors import HostdevError
from hostdevd.core.journal import RequestRecord
from hostdevd.core.requests import Requests

PEER = Caller(Proof.PEER, uid=1000)
OTHER = Caller(Proof.PEER, uid=1001)
CERTIFIED = Caller(Proof.CERTIFICATE, sans=("DNS:orchestrator",))


def known(owner: str) -> Requests:
    requests = Requests()
    requests.put(RequestRecord("id", owner, "print", "assignment", 0.0))
    return requests


@pytest.mark.parametrize(
    ("owner", "caller"),
    [
        (PEER.name, PEER),
        (LOOPBACK.name, LOOPBACK),
        (CERTIFIED.name, CERTIFIED),
        ("unix", PEER),  # of a journal that did not know whose the socket's other end was
        ("unix", OTHER),
    ],
)
def test_its_owner_may_repeat_a_request(owner: str, caller: Caller) -> None:
    assert known(owner).repeated("id", caller.name, "print").assignment == "assignment"


@pytest.mark.parametrize(
    ("owner", "caller"),
    [(PEER.name, OTHER), (PEER.name, LOOPBACK), ("unix", LOOPBACK), ("unix", CERTIFIED), (LOOPBACK.name, PEER)],
)
def test_somebody_else_may_not(owner: str, caller: Caller) -> None:
    with pytest.raises(HostdevError) as refused:
        known(owner).repeated("id", caller.name, "print")
    assert refused.value.reason == "REQUEST_ID_REUSED"
