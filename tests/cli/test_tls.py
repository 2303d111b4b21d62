"""Mutual TLS of a running service: who gets in, by what, and certificates that change meanwhile."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from cli.authority import Authority, Pair
from cli.monitored import scrape
from cli.test_peers import fresh, place, serving, stub, until_logged
from hostdev.v1 import service_pb2
from hostdevd.api.expiry import end

__all__ = ["place"]

ORCHESTRATOR = "spiffe://example.org/orchestrator"
SERVER = ("DNS:localhost", "IP:127.0.0.1")


def tls(server: Pair, clients: Authority, more: str = "") -> str:
    """Options for TLS on loopback, and a plain socket beside it."""
    files = f'certificate = "{server.certificate}"\nkey = "{server.key}"\nclient_ca = "{clients.certificate}"\n'
    return f'listen = ["tls:127.0.0.1:0"]\n[tls]\n{files}{more}'


def channel_to(address: str, servers: Authority, client: Pair | None) -> grpc.Channel:
    """A fresh connection."""
    ours = (client.key.read_bytes(), client.certificate.read_bytes()) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(servers.certificate.read_bytes(), *ours)
    return grpc.secure_channel(address, credentials, (("grpc.use_local_subchannel_pool", 1),))


def code_of(address: str, servers: Authority, client: Pair | None) -> grpc.StatusCode:
    """What a call comes to, OK or how it was refused."""
    with channel_to(address, servers, client) as channel:
        try:
            stub(channel).GetDevice(service_pb2.GetDeviceRequest(device="pci_0000_01_00_0"), timeout=10)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def handshake(address: str, version: str, client: Pair) -> tuple[bool, str]:
    """Whether the server speaks a version of TLS, and what openssl says about it."""
    command = ["openssl", "s_client", version, "-cipher", "ALL:@SECLEVEL=0", "-connect", address]
    done = subprocess.run(
        [*command, "-cert", client.certificate, "-key", client.key],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
    )
    return "Cipher is (NONE)" not in done.stdout, done.stdout + done.stderr


def test_hostdevctl_over_mutual_tls_is_who_its_certificate_says(place: Path) -> None:
    authority = Authority(place)
    server, client = (
        authority.issue("server", *SERVER),
        authority.issue("client", f"URI:{ORCHESTRATOR}", "DNS:a.example"),
    )
    with serving(place, tls(server, authority)) as service:
        environment = {
            **os.environ,
            "HOSTDEV_ADDRESS": service.addresses[0],
            "HOSTDEV_TLS_CA": str(authority.certificate),
            "HOSTDEV_TLS_CERT": str(client.certificate),
            "HOSTDEV_TLS_KEY": str(client.key),
        }
        attach = [sys.executable, "-m", "hostdev.cli", "-o", "json", "attach", "alpha", "pci_0000_01_00_0", "--yes"]
        done = subprocess.run(attach, check=True, capture_output=True, text=True, env=environment, timeout=60)
        assert json.loads(done.stdout)["assignment"]["createdBy"] == f"URI:{ORCHESTRATOR}"


def test_nobody_gets_in_without_a_certificate_of_the_authority_and_a_name_in_it(place: Path) -> None:
    authority, other = Authority(place), Authority(place, "other")
    server = authority.issue("server", *SERVER)
    with serving(place, tls(server, authority)) as service:
        address = service.addresses[0]
        assert code_of(address, authority, authority.issue("client", "DNS:a.example")) is grpc.StatusCode.OK
        assert code_of(address, authority, None) is grpc.StatusCode.UNAVAILABLE
        assert code_of(address, authority, other.issue("stranger", "DNS:a.example")) is grpc.StatusCode.UNAVAILABLE
        until_logged(service, "a client was turned away before its first call")
        nameless = authority.issue("nameless")
        assert code_of(address, authority, nameless) is grpc.StatusCode.UNAUTHENTICATED
        with grpc.insecure_channel(address) as plain, pytest.raises(grpc.RpcError):
            stub(plain).GetHost(service_pb2.GetHostRequest(), timeout=10)
        spoken = {
            version: handshake(address, version, nameless) for version in ("-tls1", "-tls1_1", "-tls1_2", "-tls1_3")
        }
        assert [version for version, (speaks, _) in spoken.items() if speaks] == ["-tls1_2", "-tls1_3"], spoken


def test_a_trust_domain_lets_in_its_own_ids_alone(place: Path) -> None:
    authority = Authority(place)
    server = authority.issue("server", *SERVER)
    with serving(place, tls(server, authority, 'spiffe_trust_domain = "example.org"\n')) as service:
        for sans, code in (
            ((f"URI:{ORCHESTRATOR}",), grpc.StatusCode.OK),
            (("URI:spiffe://example.com/orchestrator",), grpc.StatusCode.UNAUTHENTICATED),
            (("URI:spiffe://example.org.example.com/a",), grpc.StatusCode.UNAUTHENTICATED),
            ((f"URI:{ORCHESTRATOR}", "URI:spiffe://example.org/another"), grpc.StatusCode.UNAUTHENTICATED),
            (("DNS:example.org",), grpc.StatusCode.UNAUTHENTICATED),
        ):
            assert code_of(service.addresses[0], authority, authority.issue("client", *sans)) is code, sans


class Watching:
    """A watch in a thread, and the kinds of what it has had."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.had: list[str] = []
        self._call: Any = stub(channel).WatchHolders(service_pb2.WatchHoldersRequest())
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for message in self._call:
                self.had.append(message.WhichOneof("event"))
        except grpc.RpcError:
            self.had.append("end")

    def wait_for(self, kind: str) -> None:
        until = time.monotonic() + 20
        while kind not in self.had:
            assert time.monotonic() < until, self.had
            time.sleep(0.01)

    def close(self) -> None:
        self._call.cancel()
        self._thread.join()


def _ends(port: int) -> list[float]:
    """When the service's certificate and its clients' authority end."""
    told = scrape(port)
    name = "hostdevd_tls_certificate_expiry_timestamp_seconds"
    return [told.value(name, file=file) for file in ("certificate", "client_ca")]


def test_certificates_are_read_again_and_a_stream_stays(place: Path) -> None:
    old, new = Authority(place, "old"), Authority(place, "new")
    server = old.issue("server", *SERVER)
    client, later = old.issue("client", "DNS:a.example"), new.issue("later", "DNS:b.example")
    clients = place / "clients.pem"
    clients.write_bytes(old.certificate.read_bytes())
    options = 'metrics = "127.0.0.1:0"\n' + tls(server, old).replace(str(old.certificate), str(clients))
    with serving(place, options) as service, channel_to(service.addresses[0], old, client) as channel:
        address = service.addresses[0]
        watching = Watching(channel)
        watching.wait_for("bookmark")
        metrics = int(re.findall(r'"port": ?(\d+)', service.log)[0])
        assert _ends(metrics) == [end(server.certificate.read_bytes(), min), end(clients.read_bytes(), max)]
        assert code_of(address, new, later) is grpc.StatusCode.UNAVAILABLE
        key = server.key.read_bytes()

        server.key.write_bytes(later.key.read_bytes())  # no key of this certificate
        assert code_of(address, old, client) is grpc.StatusCode.OK
        until_logged(service, "new certificates are refused, the old ones stay")
        server.key.unlink()
        assert code_of(address, old, client) is grpc.StatusCode.OK
        until_logged(service, "certificates could not be read again, the old ones stay")
        assert code_of(address, old, client) is grpc.StatusCode.OK
        assert service.log.count("new certificates are refused") == 1  # once for each change
        assert service.log.count("certificates could not be read again") == 1  # once a minute
        server.key.write_bytes(key)
        server.key.chmod(0o600)

        new.issue("server", *SERVER)
        clients.write_bytes(new.certificate.read_bytes())
        assert code_of(address, new, later) is grpc.StatusCode.OK
        assert code_of(address, old, client) is grpc.StatusCode.UNAVAILABLE
        assert "certificates read again" in service.log
        assert _ends(metrics) == [end(server.certificate.read_bytes(), min), end(clients.read_bytes(), max)]

        attach = service_pb2.AttachRequest(vm="alpha", device="pci_0000_01_00_0")
        with channel_to(address, new, later) as another:
            stub(another).Attach(attach)
        watching.wait_for("change_batch")  # on the connection of before
        assert "end" not in watching.had
        watching.close()


def beside_a_socket(place: Path, server: Pair, clients: Authority) -> str:
    """Options for TLS, and a unix socket and one for looking beside it."""
    return tls(server, clients, f'[socket]\nread_only = "unix:{place}/ro"\n').replace("[", f'["unix:{place}/s", ', 1)


def test_addresses_without_a_certificate_keep_nobody_out(place: Path) -> None:
    """As many connections as there may be, and who does have a certificate, or comes by another door, is let in."""
    authority = Authority(place)
    server, client = authority.issue("server", *SERVER), authority.issue("client", "DNS:a.example")
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300)
    with serving(place, beside_a_socket(place, server, authority), listen=3) as service, ExitStack() as stack:
        unix, network, looking = service.addresses
        get = service_pb2.GetDeviceRequest(device="pci_0000_01_00_0")
        early = stack.enter_context(channel_to(network, authority, client))
        stub(early).GetDevice(get, wait_for_ready=True, timeout=20)
        before = service.open_files()
        for number in range(1100):
            one = stack.enter_context(socket.socket())
            one.bind((f"127.0.0.{2 + number % 6}", 0))
            one.connect(("127.0.0.1", int(network.rpartition(":")[2])))
            if number % 2:
                one.send(hello)
        until_logged(service, "they have not shown who they are")
        for address in (unix, looking):
            with fresh(address) as channel:
                stub(channel).GetDevice(get, timeout=20)
        assert code_of(network, authority, client) is grpc.StatusCode.OK
        stub(early).GetDevice(get, timeout=20)
        assert service.open_files() - before < 3 * 1024 // 4
        assert "connections are refused" not in service.log


def test_a_long_request_is_as_long_under_tls_and_a_flood_keeps_nobody_waiting(place: Path) -> None:
    authority = Authority(place)
    server, client = authority.issue("server", *SERVER), authority.issue("client", "DNS:a.example")
    long = service_pb2.ListHoldersRequest(devices=[f"{number:0240}" for number in range(1000)])
    get = service_pb2.GetDeviceRequest(device="pci_0000_01_00_0")
    with (
        serving(place, beside_a_socket(place, server, authority), listen=3) as service,
        fresh(service.addresses[0]) as channel,
        channel_to(service.addresses[1], authority, client) as flooding,
    ):
        # 242,000 bytes each: when every 256 of them counted as a call one took 3 s.
        stub(flooding).GetDevice(get, wait_for_ready=True)
        for _ in range(10):
            stub(flooding).ListHolders(long, timeout=20)
        stub(channel).GetDevice(get, wait_for_ready=True)
        calls = [stub(flooding).GetDevice.future(get) for _ in range(3000)]
        beside = 0
        while not calls[-1].done():
            stub(channel).GetDevice(get, timeout=10)
            beside += 1
        assert beside
        # A connection that is too busy for its own pings may be given up with what is left on it.
        codes = Counter(call.code() for call in calls)
        assert codes[grpc.StatusCode.OK]
        assert codes.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
