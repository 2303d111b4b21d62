"""Lists and single answers of hosts of several sizes, beside the same without hostdevd; the start; one change.

A private libvirtd serves the hosts by its real protocol; hostdevd runs on each, as a process of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import libvirt
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.baselines import bare_list, bare_server, scan, virtinst, walk
from bench.nodefile import VPORT, endpoint, pci_address, pci_name
from bench.nodefile import devices as nodefile_devices
from bench.rows import Row
from bench.served import Service, host_file, hostdevd, libvirtd, workplace
from hostdev.v1 import device_pb2, service_pb2, service_pb2_grpc
from hostdevd.core.history import ChangeSource
from hostdevd.virt.xml.nodedev import node_device
from unit.core import made

SIZES = (200, 1000, 5000)
DOMAINS = 200
RUNS = 15
WALKS = 5
PAGE = 1000
WAIT_S = 300.0
LEAST_FOR_MEMORY = 1000


@dataclass(slots=True)
class Caller:
    """A client of hostdevd. It parses each page, as any client does; so does the one of the bare server."""

    channel: grpc.Channel
    stub: Any = field(init=False)

    def __post_init__(self) -> None:
        self.stub = service_pb2_grpc.HostDeviceServiceStub(self.channel)

    def pages(self) -> list[bytes]:
        """All pages of ListDevices."""
        call: Any = self.channel.unary_unary(
            "/hostdev.v1.HostDeviceService/ListDevices",
            request_serializer=service_pb2.ListDevicesRequest.SerializeToString,
        )
        found, token = [], ""
        while True:
            page = call(service_pb2.ListDevicesRequest(page_size=PAGE, page_token=token))
            found.append(page)
            token = service_pb2.ListDevicesResponse.FromString(page).next_page_token
            if not token:
                return found


def seconds(work: Callable[[], object], runs: int = RUNS) -> list[float]:
    """How long each of so many runs took."""
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return took


def paired(one: Callable[[], object], other: Callable[[], object], runs: int = RUNS) -> tuple[float, float, float]:
    """Medians of both, run in turn, and the median of their ratios pair by pair."""
    pairs = [(seconds(one, 1)[0], seconds(other, 1)[0]) for _ in range(runs)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def first_answer(service: Service) -> float:
    """Seconds from libvirt's connect, by the service's own log, until a client has had all pages.

    It is told by the health service when to ask: asking all the time would keep the service from its work.
    """
    with grpc.insecure_channel(service.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for answer in health.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                break
        Caller(channel).pages()
        return time.time() - connected_at(service)


def connected_at(service: Service) -> float:
    """When the service connected to libvirt, in seconds since the epoch."""
    from datetime import datetime  # noqa: PLC0415  only here

    for line in service.log.read_text().splitlines():
        told = json.loads(line)
        if told["event"] == "libvirt_connected":
            return datetime.fromisoformat(told["timestamp"]).timestamp()
    raise RuntimeError("not connected")


@contextmanager
def busy(work: Callable[[], object]) -> Iterator[None]:
    """Something that goes on all the time beside the block."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def p99(values: list[float]) -> float:
    """The 99th percentile."""
    return sorted(values)[len(values) * 99 // 100]


def longest_turn_ms(service: Service, file: Path) -> tuple[float, str]:
    """The longest turn of the service's loop since the last time: milliseconds of processor time, and what it was."""
    file.unlink(missing_ok=True)
    os.kill(service.pid, signal.SIGUSR1)
    until = time.monotonic() + 10
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.01)
    told = json.loads(file.read_text())
    return (told[0]["ms"], told[0]["what"]) if told else (0.0, "")


def one_change(place: Path, uri: str) -> Row:
    """S5: calls into libvirt that one device's appearing costs.

    Counted are the calls that ask for a device: those of the reconcile every five seconds never do. The host is the
    test driver's own, which connections share: of a node file each has its own copy.
    """
    asked = ("virConnect.nodeDeviceLookupByName", "virNodeDevice.XMLDesc")
    with hostdevd(place, "--connect", uri, name="one") as service, grpc.insecure_channel(service.address) as channel:
        first_answer(service)
        before = service.libvirt_calls()
        connection = libvirt.open(uri)
        try:
            name = connection.nodeDeviceCreateXML(VPORT, 0).name()
            request = service_pb2.GetDeviceRequest(device=name)
            _until_there(channel, request)
            time.sleep(0.5)  # whatever it causes
            after = service.libvirt_calls()
        finally:
            connection.close()
    return Row(
        "S5", "calls into libvirt for one device that appears", sum(after[c] - before.get(c, 0) for c in asked), 2
    )


def _until_there(channel: grpc.Channel, request: Any) -> None:
    until = time.monotonic() + WAIT_S
    while True:
        try:
            Caller(channel).stub.GetDevice(request)
        except grpc.RpcError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def change_s(devices: int) -> float:
    """Seconds of the store's work when one of so many devices changes."""
    store = made.store()
    nodes = [node_device(xml) for xml in nodefile_devices(devices)]
    with store.change(ChangeSource.RECONCILE):
        store.put_devices(nodes)
    function = next(node for node in nodes if node.type == "pci")
    drivers = itertools.cycle(("e1000e", "igb"))

    def change() -> None:
        with store.change(ChangeSource.EVENT):
            store.put_devices([replace(function, driver=next(drivers))])

    return statistics.median(seconds(change, 50))


def beside_a_lister(n: str, service: Service, caller: Caller, device: str, turns: Path) -> Iterator[Row]:
    """S12: one small call while another client lists all devices again and again."""
    get = service_pb2.GetDeviceRequest(device=device)
    alone = seconds(lambda: caller.stub.GetDevice(get), 400)
    longest_turn_ms(service, turns)
    own = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(service.address, own) as second, busy(Caller(second).pages):
        beside = seconds(lambda: caller.stub.GetDevice(get), 400)
    turn, _ = longest_turn_ms(service, turns)
    yield Row("S12", f"{n}: GetDevice p99 beside a client that lists in a loop / alone", p99(beside) / p99(alone), 4)
    yield Row("S12", f"{n}: longest turn of the loop meanwhile, ms", turn, 5)


def other_turns(n: str, service: Service, caller: Caller, policy: Path, turns: Path) -> Iterator[Row]:
    """S12: how long other work on all devices keeps the loop at a time."""
    nothing = device_pb2.DeviceFilter(ids=["ffff:ffff"])

    def snapshot() -> None:
        stream = caller.stub.WatchDevices(service_pb2.WatchDevicesRequest())
        next(message for message in stream if message.HasField("bookmark"))
        stream.cancel()

    def judged_anew() -> None:
        told = service.log.read_text().count("read again")
        policy.write_text(f'[[deny]]\nname = "bench {told}"\nclass = ["ffff"]\n')
        os.kill(service.pid, signal.SIGHUP)
        until = time.monotonic() + WAIT_S
        while service.log.read_text().count("read again") < told + 1:
            if time.monotonic() > until:
                raise RuntimeError("the policy is not read again")
            time.sleep(0.02)

    for what, work in (
        ("a filter that fits nothing", lambda: caller.stub.ListDevices(service_pb2.ListDevicesRequest(filter=nothing))),
        ("all groups", lambda: caller.stub.ListGroups(service_pb2.ListGroupsRequest(page_size=PAGE))),
        ("a watch's snapshot", snapshot),
        ("a policy read again", judged_anew),
    ):
        longest_turn_ms(service, turns)
        work()
        turn, _ = longest_turn_ms(service, turns)
        yield Row("S12", f"{n}: longest turn of the loop for {what}, ms", turn, 5)


def of_size(place: Path, uri: str, devices: int, memory: dict[int, int]) -> Iterator[Row]:
    """All rows for a host of one size."""
    turns = place / f"turns-{devices}.json"
    os.environ["HOSTDEVD_BENCH_TURNS"] = str(turns)
    n = f"{devices} devices"
    walks = [walk(uri)[0] for _ in range(WALKS)]
    starts = []
    for number in range(3):
        with hostdevd(place, "--connect", uri, name=f"s{devices}-{number}") as service:
            starts.append(first_answer(service))
    policy = place / f"policy-{devices}.toml"
    policy.touch()
    with hostdevd(place, "--connect", uri, "--policy", str(policy), name=f"s{devices}") as service:
        first_answer(service)
        with grpc.insecure_channel(service.address) as channel:
            caller = Caller(channel)
            pages = caller.pages()
            memory[devices] = service.memory_kib()
            bare_address = f"unix:{place}/b{devices}"
            with bare_server(bare_address, pages), grpc.insecure_channel(bare_address) as bare:
                bare_pages = bare_list(bare, len(pages))
                ours, _, ceiling = paired(caller.pages, bare_pages)
            walked = statistics.median(walks)
            yield Row("S1", f"{n}: full walk by libvirt / ListDevices, all pages", walked / ours, 50, ">=")
            yield Row("S2", f"{n}: ListDevices / a bare server with the same bytes", ceiling, 1.3)
            before = service.libvirt_calls()
            device = pci_name(endpoint(0))
            for _ in range(20):
                caller.pages()
                caller.stub.ListEligible(service_pb2.ListEligibleRequest(page_size=PAGE))
                caller.stub.ListHolders(service_pb2.ListHoldersRequest())
            after = service.libvirt_calls()
            grown = {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}
            # The reconcile of every five seconds calls too, and never reads a device by XML.
            yield Row("S3", f"{n}: node device XML read during 60 lists", grown.get("virNodeDevice.XMLDesc", 0), 0)
            yield Row("S4", f"{n}: connect to first full answer / one full walk", min(starts) / min(walks), 1.2)
            held = service_pb2.ListHoldersRequest(devices=[device])
            holders = statistics.median(seconds(lambda: caller.stub.ListHolders(held)))
            scans = [scan(uri, pci_address(endpoint(0)))[0] for _ in range(WALKS)]
            scanned = statistics.median(scans)
            yield Row(
                "S6", f"{n}, {DOMAINS} domains: scan of all XML / ListHolders of one", scanned / holders, 100, ">="
            )
            yield from beside_a_lister(n, service, caller, device, turns)
            yield from other_turns(n, service, caller, policy, turns)
    peer = virtinst(uri, 3)
    told = statistics.median(peer) / ours if peer else "package virtinst is not installed"
    yield Row("peer", f"{n}: virt-manager's fetch_all_nodedevs / ListDevices", told)


def rows(sizes: Sequence[int]) -> Iterator[Row]:
    """The rows of hosts of these sizes, and what a device costs in memory from one size to the next."""
    if not sizes:
        return
    memory: dict[int, int] = {}
    with workplace() as place, libvirtd(place) as daemon:
        for devices in sizes:
            uri = daemon.uri(str(host_file(place, devices, DOMAINS)))
            yield from of_size(place, uri, devices, memory)
        yield one_change(place, daemon.uri())
    least, most = min(sizes), max(sizes)
    grown = change_s(most) / change_s(least)
    yield Row("S5", f"the store's work for one change, {most} devices / {least}", grown, 1.5)
    for low, high in pairwise(sorted(memory)):
        grown = (memory[high] - memory[low]) / (high - low)
        # From a few devices the interpreter's own memory is all that moves.
        bar = 6 if low >= LEAST_FOR_MEMORY else None
        yield Row("S9", f"KiB of memory a device, from {low} to {high}", grown, bar)
