"""Whatever is sent to whichever method: an answer or a refusal of the error table, and nothing changed by the latter.

A real server with real clients, on the simulated host. Each field alone with every kind of value, then whole
requests of values that make sense and values that do not, then bytes.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from api import Refused
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from hosts import SimulatedHost, simulated_host
from hypothesis import given, settings
from hypothesis import strategies as st

from hostdev.v1 import assignment_pb2, service_pb2
from hostdevd.api.errors import STATUS_OF
from property import hostile
from property.conftest import PROFILE
from unit.core.rig import state_of

METHODS = hostile.methods()
EACH_METHOD = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
NIC, HELD = "pci_0000_01_00_0", "pci_0000_02_00_0"
LIMIT_S = 10.0
SILENCE_S = 0.3
"""A watch that goes on where nothing happens says nothing for a while; a refusal comes at once."""
IN_FLIGHT = (
    assignment_pb2.ASSIGNMENT_STATE_ATTACHING,
    assignment_pb2.ASSIGNMENT_STATE_ROLLING_BACK,
    assignment_pb2.ASSIGNMENT_STATE_DETACHING,
)
_LEAKS = ("Traceback", "Error(", "Error:", "Exception", "object at 0x", "has no attribute", ".py", ", line ", "sqlite")


NO_LIMITS = {"limit_mutations_per_minute": 1_000_000, "limit_mutations_per_minute_total": 1_000_000}
"""That it is often is no fault of a request's."""


class Target:
    """A server, what is known of its host, and what must not change by itself."""

    def __init__(self, host: SimulatedHost, channel: grpc.Channel, directory: Path) -> None:
        self.host = host
        self.api = host.api
        self._channel = channel
        self._database = directory / "state" / "state.sqlite"
        for name in ("deaf", "stubborn"):  # what they refuse is no input of the API's
            host.controls.set_guest_behaviour(name, "immediate")
        self.known = self._known()

    def _known(self) -> dict[str, list[Any]]:
        api = self.api
        devices = api.devices()
        names = [NIC, HELD, *(device.name for device in devices[::9]), *(device.uid for device in devices[::23])]
        vms = [domain.name for domain in self.host.controls.world.domains.values()]
        uuids = [domain.uuid for domain in self.host.controls.world.domains.values()]
        held = api.attach(vms[0], NIC)
        api.detach(assignment=held.name)
        page = api.stub.ListDevices(service_pb2.ListDevicesRequest(page_size=1))
        info = api.stub.GetHost(service_pb2.GetHostRequest()).host
        return {
            "host": ["", "", info.name, info.uuid],
            "vm": vms,
            "vms": [*vms, *uuids],
            "device": names,
            "devices": names,
            "parent": ["computer", *names],
            "affected_by": names,
            "group": [group.uid for group in api.stub.ListGroups(service_pb2.ListGroupsRequest()).groups],
            "assignment": ["", held.name],
            "name": [held.name],
            "uids": [device.uid for device in devices[:5]],
            "types": ["pci", "usb_device", "net"],
            "ids": ["8086:*", "8086:100e"],
            "pci_classes": ["02", "0x0c03"],
            "drivers": ["e1000e", "vfio-pci"],
            "page_size": [0, 1, 1000],
            "page_token": ["", "", page.next_page_token, page.next_page_token[:-4]],
            "resume_token": ["", page.resume_token, page.resume_token + "9" * 9, "r1." + "0" * 32 + ".1"],
            "request_id": ["", str(uuid.uuid4()), held.name],
            "validate_only": [True],
            "seconds": [0, 1, 2],
            "nanos": [0, 1],
        }

    def state(self) -> str:
        """Everything that a request may change: drivers, definitions, records."""
        told: list[object] = []
        self.host._run(lambda: told.append(state_of(self.host.controls.world)))
        with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)) as db:
            told += db.execute("SELECT * FROM assignment ORDER BY 1").fetchall()
            told += db.execute("SELECT * FROM request ORDER BY 1").fetchall()
        return repr(told)

    def send(self, method: MethodDescriptor, data: bytes, silence_s: float = SILENCE_S) -> Refused | None:
        """Send bytes; None for an answer, of a watch the first message."""
        channel: Any = self._channel
        path, parse = hostile.path_of(method), GetMessageClass(method.output_type).FromString
        try:
            if method.server_streaming:
                stream: Any = channel.unary_stream(path, response_deserializer=parse)(data, timeout=silence_s)
                next(stream)
                stream.cancel()
            else:
                channel.unary_unary(path, response_deserializer=parse)(data, timeout=LIMIT_S)
        except grpc.RpcError as error:
            refused = Refused(error)
            silent = method.server_streaming and refused.code is grpc.StatusCode.DEADLINE_EXCEEDED
            return None if silent else refused
        return None

    def check(self, method: MethodDescriptor, data: bytes) -> Refused | None:
        """Send bytes, and see that the answer is one that hostdevd may give."""
        before = self.state()
        refused = self.send(method, data)
        if refused is None:
            self._settle()
            return None
        assert refused.info.domain == "hostdevd", (refused.code, str(refused))
        assert refused.reason not in {"UNEXPECTED", "RATE_LIMITED"}, str(refused)
        assert refused.code is STATUS_OF[refused.reason]
        assert not [word for word in _LEAKS if word in str(refused) and word not in repr(data)], str(refused)
        if refused.code is grpc.StatusCode.INVALID_ARGUMENT:
            assert refused.fields, f"{refused.reason} names no field"
            for field in refused.fields:
                assert field == "request" or hostile.has_field(method.input_type, field), field
        # Of what was tried and undone there is a record.
        if refused.reason not in {"ATTACH_FAILED", "DETACH_REJECTED_BY_GUEST"}:
            assert self.state() == before, refused.reason
        return refused

    def _settle(self) -> None:
        """Until nobody works any more: what an earlier call changes late would be laid to the next."""
        end = time.monotonic() + LIMIT_S
        while self.api.stub.ListAssignments(service_pb2.ListAssignmentsRequest(states=IN_FLIGHT)).assignments:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    directory = tmp_path_factory.mktemp("hostile")
    with (
        simulated_host(directory, **NO_LIMITS) as host,
        grpc.insecure_channel(f"unix:{directory}/hostdevd.sock") as channel,
    ):
        yield Target(host, channel, directory)


# --- one field at a time --------------------------------------------------------------------------------


def sensible(method: MethodDescriptor) -> Any:
    """A request that goes beyond the checks, and changes nothing: what is hostile in it is one field."""
    request = GetMessageClass(method.input_type)()
    fields = method.input_type.fields_by_name
    values: dict[str, Any] = {
        "vm": "alpha",
        "device": NIC,
        "validate_only": True,
        "name": str(uuid.UUID(int=1)),
        "parent": NIC,
        "type_id": "vgpu-1",
    }
    for name, value in values.items():
        if name in fields:
            setattr(request, name, value)
    return request


@EACH_METHOD
def test_no_value_of_any_field_does_harm(target: Target, method: MethodDescriptor) -> None:
    for way in hostile.leaves(method.input_type):
        for value in hostile.values(way[-1]):
            request = sensible(method)
            hostile.put(request, way, value)
            target.check(method, request.SerializeToString())


@EACH_METHOD
def test_a_text_that_is_no_name_is_refused_by_its_field(target: Target, method: MethodDescriptor) -> None:
    for way in hostile.leaves(method.input_type):
        if way[-1].type != FieldDescriptor.TYPE_STRING:
            continue
        for text in hostile.MALFORMED:
            request = sensible(method)
            if way[-1].name in {"group", "assignment"}:  # in place of what names it otherwise
                for other in {"vm", "device"} & set(method.input_type.fields_by_name):
                    request.ClearField(other)
            hostile.put(request, way, [text] if way[-1].is_repeated else text)
            refused = target.check(method, request.SerializeToString())
            assert refused is not None, (hostile.name_of(way), text[:20])
            if refused.reason == "NOT_SERVED":
                continue
            assert refused.code is grpc.StatusCode.INVALID_ARGUMENT, (hostile.name_of(way), text[:20], str(refused))
            assert [field.partition("[")[0] for field in refused.fields] == [hostile.name_of(way)], text[:20]


@EACH_METHOD
def test_numbers_that_the_api_does_not_know_are_refused_by_their_field(
    target: Target, method: MethodDescriptor
) -> None:
    for way in hostile.leaves(method.input_type):
        field = way[-1]
        if field.enum_type is None and field.name != "page_size":
            continue
        for number in (-1, -(2**31)) if field.enum_type is None else (-1, 99, 2**31 - 1, -(2**31)):
            request = sensible(method)
            hostile.put(request, way, [number] if field.is_repeated else number)
            refused = target.check(method, request.SerializeToString())
            assert refused is not None, (field.name, number)
            if refused.reason == "NOT_SERVED":
                continue
            assert [one.partition("[")[0] for one in refused.fields] == [hostile.name_of(way)]


# --- all at once ----------------------------------------------------------------------------------------


@settings(settings.get_profile(PROFILE))
@given(data=st.data())
def test_no_request_does_harm(target: Target, data: st.DataObject) -> None:
    requests = hostile.Requests(target.known)
    for _ in range(3):
        method = data.draw(st.sampled_from(METHODS))
        target.check(method, data.draw(requests.of(method)).SerializeToString())


@settings(settings.get_profile(PROFILE))
@given(data=st.data())
def test_no_token_does_harm(target: Target, data: st.DataObject) -> None:
    """A token that was damaged, lengthened, or is of another list."""
    for field in ("page_token", "resume_token"):
        method = data.draw(st.sampled_from([one for one in METHODS if field in one.input_type.fields_by_name]))
        token = data.draw(st.sampled_from([token for token in target.known[field] if token]))
        start, length = data.draw(st.integers(0, len(token))), data.draw(st.integers(0, 4))
        request = sensible(method)
        setattr(request, field, token[:start] + data.draw(st.text(max_size=4)) + token[start + length :])
        refused = target.check(method, request.SerializeToString())
        if refused is not None:
            assert refused.reason in {"INVALID_PAGE_TOKEN", "INVALID_RESUME_TOKEN", "REVISION_COMPACTED"}, (
                refused.reason
            )


# --- on the wire ----------------------------------------------------------------------------------------


@settings(settings.get_profile(PROFILE))
@given(data=st.data())
def test_no_bytes_do_harm(target: Target, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(METHODS))
    whole = sensible(method).SerializeToString()
    target.check(method, data.draw(hostile.damaged(whole) | st.binary(max_size=60)))


@EACH_METHOD
def test_broken_messages_are_refused(target: Target, method: MethodDescriptor) -> None:
    for what, data in hostile.BROKEN.items():
        refused = target.check(method, data)
        assert refused is not None, what
        assert (refused.reason, refused.fields) == ("INVALID_FIELD", ["request"]), what
    for way in hostile.leaves(method.input_type):
        if way[-1].type == FieldDescriptor.TYPE_STRING:
            refused = target.check(method, hostile.no_utf8(way))
            assert refused is not None, hostile.name_of(way)
            assert refused.fields == ["request"], hostile.name_of(way)
    for data in hostile.wrong_types(method.input_type):
        target.check(method, data)


@pytest.mark.parametrize(
    "method", METHODS[:1] + [one for one in METHODS if one.server_streaming], ids=lambda one: one.name
)
def test_a_message_that_is_too_large_is_refused_before_it_is_read(target: Target, method: MethodDescriptor) -> None:
    refused = target.send(method, hostile.tag(1, 2) + hostile.varint(2**20) + b"x" * 2**20, LIMIT_S)
    assert refused is not None
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not [word for word in _LEAKS if word in str(refused)]
