"""An attach for the time of a block: taken back at its end, however it ends, and only what was added."""

from __future__ import annotations

import grpc
import pytest

from hostdev import HostdevClient, PreconditionError, UnfinishedError
from hostdev.aio import AsyncHostdevClient
from hostdev.v1 import assignment_pb2, service_pb2
from unit.client.fake_host import GPU
from unit.client.fake_server import FakeHostdevd, Refused, error_info

BOOM = "boom"


def detaches(server: FakeHostdevd) -> list[tuple[str, int]]:
    return [(request.assignment, request.scope) for request in server.asked(service_pb2.DetachRequest)]


def named(server: FakeHostdevd) -> str:
    return str(server.asked(service_pb2.AttachRequest)[0].request_id)


@pytest.fixture
def held_before(server: FakeHostdevd) -> FakeHostdevd:
    """The VM has the device in its configuration; the attach adds it to the running one."""
    server.plan.ClearField("steps")
    server.plan.steps.add(kind=assignment_pb2.PLAN_STEP_KIND_ATTACH_LIVE, device=GPU)
    return server


@pytest.fixture
def new(server: FakeHostdevd) -> FakeHostdevd:
    """The VM has the device by this attach alone."""
    server.plan.steps.add(kind=assignment_pb2.PLAN_STEP_KIND_ATTACH_CONFIG, device=GPU)
    return server


def test_it_is_taken_back_at_the_end(new: FakeHostdevd, client: HostdevClient) -> None:
    with client.attached("web", GPU) as assignment:
        assert assignment.name == named(new)
        assert not detaches(new)
    assert detaches(new) == [(named(new), assignment_pb2.SCOPE_AUTO)]


def test_what_the_vm_had_before_it_keeps(held_before: FakeHostdevd, client: HostdevClient) -> None:
    with client.attached("web", GPU):
        pass
    assert detaches(held_before) == [(named(held_before), assignment_pb2.SCOPE_LIVE)]


def test_it_is_taken_back_when_the_block_fails(new: FakeHostdevd, client: HostdevClient) -> None:
    with pytest.raises(ValueError, match=BOOM), client.attached("web", GPU):
        raise ValueError(BOOM)
    assert len(detaches(new)) == 1


def test_the_blocks_own_failure_is_raised_and_tells_of_the_other(new: FakeHostdevd, client: HostdevClient) -> None:
    refusal = Refused(grpc.StatusCode.FAILED_PRECONDITION, "the guest refuses", error_info("DETACH_REJECTED_BY_GUEST"))
    new.refusals["Detach"] = refusal
    with pytest.raises(ValueError, match=BOOM) as raised, client.attached("web", GPU):
        raise ValueError(BOOM)
    assert "was not taken back: DETACH_REJECTED_BY_GUEST" in raised.value.__notes__[0]
    with pytest.raises(PreconditionError, match="the guest refuses"), client.attached("web", GPU):
        pass


def test_what_does_not_come_to_its_end_is_an_error_with_the_assignment(
    new: FakeHostdevd, client: HostdevClient
) -> None:
    new.detached = assignment_pb2.ASSIGNMENT_STATE_DETACHING
    with pytest.raises(UnfinishedError, match="still DETACHING") as raised, client.attached("web", GPU):
        pass
    assert raised.value.assignment.vm.name == "web"
    new.attached = assignment_pb2.ASSIGNMENT_STATE_ATTACHING
    with pytest.raises(UnfinishedError, match="still ATTACHING"), client.attached("web", GPU):
        pytest.fail("the block began")


async def test_the_asynchronous_one_does_the_same(new: FakeHostdevd) -> None:
    async with AsyncHostdevClient(new.address) as client:
        with pytest.raises(ValueError, match=BOOM):
            async with client.attached("web", GPU):
                raise ValueError(BOOM)
        assert detaches(new) == [(named(new), assignment_pb2.SCOPE_AUTO)]
        new.detached = assignment_pb2.ASSIGNMENT_STATE_DETACHING
        with pytest.raises(UnfinishedError):
            async with client.attached("web", GPU):
                pass
