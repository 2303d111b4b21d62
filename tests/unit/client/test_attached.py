"""An attach for the time of a block: taken back at its end, however it ends, and only what was added."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from hostdev import HostdevApiError, HostdevClient, PreconditionError, UnavailableError, UnfinishedError
from hostdev.aio import AsyncHostdevClient
from hostdev.v1 import assignment_pb2, service_pb2
from unit.client import fake_host
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


def test_an_attach_that_does_not_finish_is_taken_back_and_named(new: FakeHostdevd, client: HostdevClient) -> None:
    new.attached = assignment_pb2.ASSIGNMENT_STATE_ATTACHING
    with pytest.raises(UnfinishedError) as raised, client.attached("web", GPU):
        pytest.fail("the block began")
    assert detaches(new) == [(named(new), assignment_pb2.SCOPE_AUTO)]
    assert raised.value.request_id == named(new)
    assert raised.value.__notes__ == [f"the attach has the request id {named(new)}"]


def test_of_an_attach_that_extends_only_its_own_part_is_taken_back(
    held_before: FakeHostdevd, client: HostdevClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = fake_host.assignment(assignment_pb2.ASSIGNMENT_STATE_ATTACHING)
    under_way.config = True
    monkeypatch.setattr(fake_host, "assignment", lambda *_: under_way)
    with pytest.raises(UnfinishedError), client.attached("web", GPU):
        pytest.fail("the block began")
    assert detaches(held_before) == [(under_way.name, assignment_pb2.SCOPE_LIVE)]


def test_an_attach_whose_answer_is_lost_is_taken_back_and_named(new: FakeHostdevd, client: HostdevClient) -> None:
    new.refusals["Attach"] = Refused(grpc.StatusCode.UNAVAILABLE, "connection reset")
    new.refusals["Detach"] = Refused(grpc.StatusCode.ABORTED, "in flight", error_info("OPERATION_IN_PROGRESS"))
    with pytest.raises(UnavailableError) as raised, client.attached("web", GPU):
        pytest.fail("the block began")
    assert detaches(new) == [(named(new), assignment_pb2.SCOPE_AUTO)]
    assert raised.value.request_id == named(new)
    assert "was not taken back: OPERATION_IN_PROGRESS" in raised.value.__notes__[1]
    new.refusals["Detach"] = Refused(grpc.StatusCode.NOT_FOUND, "no such", error_info("ASSIGNMENT_NOT_FOUND"))
    with pytest.raises(UnavailableError) as raised, client.attached("web", GPU):
        pytest.fail("the block began")
    assert len(raised.value.__notes__) == 1


def test_what_was_refused_is_not_taken_back(new: FakeHostdevd, client: HostdevClient) -> None:
    new.refusals["Attach"] = Refused(grpc.StatusCode.INVALID_ARGUMENT, "other", error_info("REQUEST_ID_REUSED"))
    with pytest.raises(HostdevApiError) as raised, client.attached("web", GPU, request_id="theirs"):
        pytest.fail("the block began")
    assert not detaches(new)
    assert raised.value.request_id == ""


async def test_a_task_that_is_cancelled_while_it_attaches_takes_back(new: FakeHostdevd) -> None:
    new.attach_takes_s = 1.0

    async def hold(client: AsyncHostdevClient) -> None:
        async with client.attached("web", GPU):
            pytest.fail("the block began")

    async with AsyncHostdevClient(new.address) as client:
        task = asyncio.ensure_future(hold(client))
        while not new.asked(service_pb2.AttachRequest):  # noqa: ASYNC110 (another thread's)
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
    assert detaches(new) == [(named(new), assignment_pb2.SCOPE_AUTO)]
    assert raised.value.__notes__ == [f"the attach has the request id {named(new)}"]
