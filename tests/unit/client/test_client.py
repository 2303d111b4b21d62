from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from hostdev import HostdevApiError, HostdevClient, Tls, UnavailableError
from hostdev.aio import AsyncHostdevClient
from hostdev.channel import DEFAULT_ADDRESS, address_or_default
from hostdev.v1 import device_pb2, service_pb2
from unit.client import fake_host
from unit.client.fake_server import FakeHostdevd, no_device


def test_lists_are_walked_to_the_empty_token(server: FakeHostdevd, client: HostdevClient) -> None:
    listing = client.list_devices(page_size=3)
    assert (listing.revision, listing.resume_token) == (7, "at-7")
    assert list(listing) == server.devices
    asked = server.asked(service_pb2.ListDevicesRequest)
    assert [request.page_token for request in asked] == ["", "3", "6"]
    assert {request.page_size for request in asked} == {3}


def test_a_refused_list_is_raised_by_the_call_itself(server: FakeHostdevd, client: HostdevClient) -> None:
    server.refusals["ListDevices"] = no_device("nope")
    with pytest.raises(HostdevApiError, match="DEVICE_NOT_FOUND"):
        client.list_devices(device_pb2.DeviceFilter(parent="nope"))


def test_attach_makes_a_request_id_and_says_what_was_seen(server: FakeHostdevd, client: HostdevClient) -> None:
    client.attach("web", fake_host.GPU)
    client.attach("web", fake_host.GPU, expected_affected=[], wait_s=0.25)
    unchecked, checked = server.asked(service_pb2.AttachRequest)
    assert unchecked.request_id != checked.request_id
    assert len(unchecked.request_id) == 36
    assert not unchecked.HasField("expected_affected")
    assert checked.HasField("expected_affected")
    assert checked.wait.ToMilliseconds() == 250


class Slow(FakeHostdevd):
    def GetHost(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.add_callback(self.ended.set)
        self.ended.wait(20)
        return super().GetHost(request, context)

    ended = threading.Event()


def test_the_deadline_of_other_calls_is_not_that_of_a_detach(tmp_path: Path) -> None:
    with Slow(tmp_path) as server, HostdevClient(server.address, timeout_s=0.05) as client:
        assert client.detach(assignment=fake_host.ASSIGNMENT, wait_s=0).assignment.name == fake_host.ASSIGNMENT
        with pytest.raises(UnavailableError) as raised:
            client.get_host()
        assert server.asked(service_pb2.DetachRequest)[0].HasField("wait")
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_half_a_pair_of_certificate_and_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="go together"):
        Tls(certificate="client.pem")
    assert Tls.from_environment() is None
    monkeypatch.setenv("HOSTDEV_TLS_CERT", "client.pem")
    with pytest.raises(ValueError, match="go together"):
        HostdevClient("localhost:1")
    monkeypatch.setenv("HOSTDEV_TLS_KEY", "/nonexistent/key.pem")
    with pytest.raises(FileNotFoundError, match=r"key\.pem"):
        HostdevClient("localhost:1")


def test_every_call_carries_the_host_it_is_meant_for(server: FakeHostdevd) -> None:
    with HostdevClient(server.address, host="lab1") as client:
        client.get_host()
        list(client.list_holders(vms=["web"]))
        client.set_virtual_functions(fake_host.NIC, 0)
    assert {request.host for request in server.requests} == {"lab1"}
    assert server.requests[-1].HasField("count")


@pytest.mark.parametrize("address", ["unix:/run/x.sock", "localhost:50051", "192.0.2.1:1", "[2001:db8::1]:50051"])
def test_addresses(address: str) -> None:
    assert address_or_default(address) == address


@pytest.mark.parametrize("address", ["unix:", "/run/x.sock", "localhost", "http://x:1", "x:99999", "2001:db8::1:5"])
def test_no_addresses(address: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        address_or_default(address)


def test_the_address_comes_from_the_environment_else_it_is_the_local_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTDEV_ADDRESS", "lab:50051")
    assert address_or_default(None) == "lab:50051"
    monkeypatch.delenv("HOSTDEV_ADDRESS")
    assert address_or_default(None) == DEFAULT_ADDRESS


def test_another_machine_is_not_called_without_encryption(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("lab:50051", "192.0.2.1:1", "[2001:db8::1]:50051", "127.evil.example:1", "localhost.example:1"):
        with pytest.raises(ValueError, match="is another machine: give tls"):
            HostdevClient(address)
        with pytest.raises(ValueError, match="is another machine: give tls"):
            AsyncHostdevClient(address)
        HostdevClient(address, tls=Tls()).close()
        HostdevClient(address, credentials=grpc.ssl_channel_credentials()).close()
    for address in ("localhost:1", "LOCALHOST:1", "127.0.0.1:1", "127.1.2.3:1", "[::1]:1"):
        HostdevClient(address).close()
    monkeypatch.setenv("HOSTDEV_TLS_SERVER_NAME", "lab.example")
    HostdevClient("lab:50051").close()


def test_what_the_environment_says_of_tls_is_not_for_sockets(
    server: FakeHostdevd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTDEV_TLS_CA", "/nonexistent/ca.pem")
    with HostdevClient(server.address) as client:
        assert client.get_host() == fake_host.host()
    with pytest.raises(ValueError, match="a local socket is not encrypted: leave tls out"):
        HostdevClient(server.address, tls=Tls())
