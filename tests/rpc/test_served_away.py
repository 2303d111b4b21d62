"""libvirtd dies, freezes, comes back with something else; hostdevd and its watchers go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from api import eventually, refused

from hostdev.v1 import service_pb2
from rpc.nodefiles import node, pci, pci_name, vm, vm_uuid
from rpc.served import Follower, Service, refusals, serving

if TYPE_CHECKING:
    from rpc.conftest import Daemon

VM0 = "vm0"


@pytest.fixture
def node_file(daemon: Daemon) -> Path:
    """What the daemon's host has, from its next start on: two VMs with a function each, and a free one."""
    path: Path = daemon.root / "host.xml"
    path.write_text(node([vm(0, [1]), vm(1, [2])], map(pci, (1, 2, 3))), encoding="utf-8")
    return path


@pytest.fixture
def service(daemon: Daemon, node_file: Path, tmp_path: Path) -> Iterator[Service]:
    with serving(daemon.uri(str(node_file)), tmp_path) as service:
        service.wait(serving=True)
        yield service


def _address(bus: int) -> str:
    """What a holder calls a device that the host does not list."""
    return f"0000:{bus:02x}:00.0"


def equal_to_the_lists(service: Service, *followers: Follower) -> None:
    """What the followers have is in the end what the lists say."""
    lists = {"holder": service.holders, "device": service.devices}
    for follower in followers:
        eventually(
            lambda follower=follower: (follower.items, lists[follower._kind]()),  # type: ignore[misc]
            lambda both: both[0] == both[1] and bool(both[1]),
        )


def is_as_promised_while_away(service: Service, *followers: Follower) -> None:
    """Reads from memory, refusals for the rest, and streams that say how old what they have is."""
    holders, devices = service.holders(), service.devices()
    synced = service.host().synced_time
    assert holders
    assert devices
    assert service.libvirt_check() == "FAIL"
    assert not service.serving()
    refusals(service.api, VM0, pci_name(3))
    for follower in followers:
        told = len(follower.synced)
        eventually(lambda follower=follower, told=told: len(follower.synced) - told, lambda more: more >= 2)  # type: ignore[misc]
        assert follower.synced[-1] == synced
        assert follower.error is None
    assert service.host().synced_time == synced
    assert (service.holders(), service.devices()) == (holders, devices)


def comes_back(service: Service, *followers: Follower) -> None:
    before = service.host().synced_time.ToNanoseconds()
    service.wait(serving=True)
    equal_to_the_lists(service, *followers)
    assert service.libvirt_check() == "PASS"
    for follower in followers:
        eventually(lambda follower=follower: follower.synced[-1].ToNanoseconds(), lambda now: now > before)  # type: ignore[misc]
        assert follower.error is None
        assert "reset" not in follower.kinds
        assert follower.kinds.count("snapshot") == 1


def test_killed_and_upgraded_while_watched(daemon: Daemon, node_file: Path, service: Service) -> None:
    holders, devices = service.follow_holders(), service.follow_devices()
    equal_to_the_lists(service, holders, devices)

    daemon.kill()
    service.wait(serving=False)
    is_as_promised_while_away(service, holders, devices)
    # vm0 has another function, vm1 is gone, vm2 came; a device went, one came, one is another.
    after = node([vm(0, [3]), vm(2, [2])], [pci(2), pci(3, "another"), pci(4)])
    node_file.write_text(after, encoding="utf-8")
    daemon.start()
    comes_back(service, holders, devices)

    assert holders.sources() == devices.sources() == {"RECONCILE"}
    assert {(one.vm.name, one.device) for one in holders.items.values()} == {
        (VM0, pci_name(3)),
        ("vm2", pci_name(2)),
    }
    assert set(devices.items) == {"computer", *map(pci_name, (2, 3, 4))}
    assert devices.items[pci_name(3)].pci.product == "another"


def test_frozen_while_watched(daemon: Daemon, service: Service) -> None:
    holders, devices = service.follow_holders(), service.follow_devices()
    equal_to_the_lists(service, holders, devices)
    daemon.signal(signal.SIGSTOP)
    service.wait(serving=False)
    is_as_promised_while_away(service, holders, devices)
    daemon.signal(signal.SIGCONT)
    comes_back(service, holders, devices)
    # It had nothing to tell.
    assert holders.changes == devices.changes == []


def test_killed_again_and_again_while_watched(daemon: Daemon, node_file: Path, service: Service) -> None:
    holders, devices = service.follow_holders(), service.follow_devices()
    equal_to_the_lists(service, holders, devices)
    for life in range(6):
        daemon.kill()
        buses = [1 + life % 2, 3 + life]
        node_file.write_text(node([vm(life, [buses[0]]), vm(9, [buses[1]])], map(pci, buses)), encoding="utf-8")
        daemon.start()  # killed the moment it answers
    last = {(f"vm{life}", pci_name(buses[0])), ("vm9", pci_name(buses[1]))}
    eventually(lambda: {(one.vm.name, one.device) for one in holders.items.values()}, lambda now: now == last)
    comes_back(service, holders, devices)
    assert holders.sources() == {"RECONCILE"}


def test_before_the_first_answer_there_is_nothing_to_tell(daemon: Daemon, node_file: Path, tmp_path: Path) -> None:
    daemon.kill()
    with serving(daemon.uri(str(node_file)), tmp_path) as service:
        assert not service.serving()
        stub = service.api.stub
        for read in (
            lambda: stub.ListDevices(service_pb2.ListDevicesRequest()),
            lambda: stub.ListEligible(service_pb2.ListEligibleRequest()),
            lambda: stub.ListGroups(service_pb2.ListGroupsRequest()),
            lambda: stub.ListHolders(service_pb2.ListHoldersRequest()),
            lambda: stub.GetDevice(service_pb2.GetDeviceRequest(device=pci_name(1))),
            lambda: next(iter(stub.WatchHolders(service_pb2.WatchHoldersRequest()))),
            lambda: next(iter(stub.WatchDevices(service_pb2.WatchDevicesRequest()))),
        ):
            with refused("LIBVIRT_DISCONNECTED") as caught:
                read()
            assert caught[0].retry_after_s > 0
        refusals(service.api, VM0, pci_name(1))
        assert service.libvirt_check() == "FAIL"
        assert not service.host().HasField("synced_time")
        daemon.start()
        service.wait(serving=True)
        assert {one.vm.uuid for one in service.api.holders()} == {vm_uuid(0), vm_uuid(1)}


def test_hostdevd_killed_under_its_watchers(daemon: Daemon, tmp_path: Path) -> None:
    import libvirt  # noqa: PLC0415

    with ExitStack() as stack:
        tool = libvirt.open(daemon.uri())
        stack.callback(tool.close)
        for number in (0, 1, 2):
            tool.defineXML(vm(number, [number + 1]))
        with serving(daemon.uri(), tmp_path) as service:
            service.wait(serving=True)
            holders = service.follow_holders()
            equal_to_the_lists(service, holders)
            tool.lookupByName("vm0").create()
            eventually(lambda: {one.vm.name for one in holders.items.values() if one.live}, lambda now: now == {"vm0"})
            service.kill()
        # Nobody looks.
        tool.lookupByName("vm0").destroy()
        tool.lookupByName("vm1").undefine()
        tool.defineXML(vm(3, [7]))
        with serving(daemon.uri(), tmp_path) as service:
            service.wait(serving=True)
            again = service.follow_holders(holders.token, holders.items)
            truth = {("vm0", _address(1), False), ("vm2", _address(3), False), ("vm3", _address(7), False)}
            held = lambda: {(one.vm.name, one.device, one.live) for one in again.items.values()}  # noqa: E731
            eventually(held, lambda now: now == truth)
            equal_to_the_lists(service, again)
