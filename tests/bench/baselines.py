"""What hostdevd is measured against: the same work done without it, in the same run."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
import libvirt
from lxml import etree

from hostdev.v1 import service_pb2


def walk(uri: str) -> tuple[float, int]:
    """Seconds of one full walk on an open connection: listAllDevices, each XML, each parsed; and how many there are."""
    connection = libvirt.open(uri)
    try:
        began = time.perf_counter()
        found = [etree.fromstring(device.XMLDesc(0).encode()) for device in connection.listAllDevices(0)]
        return time.perf_counter() - began, len(found)
    finally:
        connection.close()


def scan(uri: str, address: tuple[int, int, int, int]) -> tuple[float, list[str]]:
    """Seconds of finding who holds a PCI function in the XML of all domains, live and inactive; and the names found."""
    connection = libvirt.open(uri)
    wanted = tuple(f"0x{part:0{width}x}" for part, width in zip(address, (4, 2, 2, 1), strict=True))
    try:
        began = time.perf_counter()
        found = []
        for domain in connection.listAllDomains(0):
            flags = (0, libvirt.VIR_DOMAIN_XML_INACTIVE) if domain.isActive() else (libvirt.VIR_DOMAIN_XML_INACTIVE,)
            for flag in flags:
                root = etree.fromstring(domain.XMLDesc(flag).encode())
                places = root.iterfind("devices/hostdev[@type='pci']/source/address")
                if any(tuple(map(place.get, ("domain", "bus", "slot", "function"))) == wanted for place in places):
                    found.append(domain.name())
                    break
        return time.perf_counter() - began, found
    finally:
        connection.close()


_VIRTINST = """
import json, sys, time
sys.path.insert(0, "/usr/share/virt-manager")
import virtinst
connection = virtinst.VirtinstConnection(sys.argv[1])
connection.open(None, None)
took = []
for _ in range(int(sys.argv[2])):
    connection._fetch_cache.clear() if hasattr(connection, "_fetch_cache") else connection.clear_cache()
    began = time.perf_counter()
    found = connection.fetch_all_nodedevs()
    for device in found:
        device.name, device.device_type
    took.append(time.perf_counter() - began)
print(json.dumps([took, len(found)]))
"""


def virtinst(uri: str, runs: int) -> list[float] | None:
    """Seconds of virt-manager's own list of node devices; None where the Debian package virtinst is not installed."""
    command = ["/usr/bin/python3", "-c", _VIRTINST, uri, str(runs)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        return None
    took: list[float] = json.loads(done.stdout)[0]
    return took


@contextmanager
def bare_server(address: str, pages: list[bytes]) -> Iterator[None]:
    """A `grpc.aio` server in a thread of its own process that answers page after page with these bytes."""
    import multiprocessing  # noqa: PLC0415  only here

    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_serve_bare, args=(address, pages, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(60):
            raise RuntimeError("the bare server does not start")
        yield
    finally:
        process.terminate()
        process.join()


def _serve_bare(address: str, pages: list[bytes], ready: Any) -> None:
    async def serve() -> None:
        async def answer(request: bytes, _context: object) -> bytes:
            return pages[int(request)]

        methods: dict[str, Any] = {"Page": grpc.unary_unary_rpc_method_handler(answer)}
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Bare", methods),))
        server.add_insecure_port(address)
        await server.start()
        ready.set()
        await server.wait_for_termination()

    asyncio.run(serve())


def bare_list(channel: grpc.Channel, count: int) -> Callable[[], int]:
    """A function that gets all pages of the bare server and parses them; how many devices it got."""
    call: Any = channel.unary_unary("/bare.Bare/Page")

    def every() -> int:
        answers = (call(str(number).encode()) for number in range(count))
        return sum(len(service_pb2.ListDevicesResponse.FromString(answer).devices) for answer in answers)

    return every
