"""A client that applies a stream has what the list says, whatever host, service, connection and reader do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostdev.v1 import device_pb2
from hostdevd.api import watch as watching
from hostdevd.core.addresses import PciAddress, UsbAddress
from hostdevd.core.history import ChangeSource
from hostdevd.core.model import NodeDevice, PciFacts, UsbFacts
from hostdevd.core.ports import DriverState, IdentityFacts
from property.conftest import PROFILE
from property.following import Served, Watcher, by_uid, renamed
from unit.core.made import domain, entry, pci, usb

SOURCES = tuple(ChangeSource)
PORT = "pci_0000_02_00_0"
DEVICES: dict[str, NodeDevice] = {
    one.name: one
    for one in (
        pci("01:00.0"),
        pci("01:00.1"),
        pci("02:00.0", group=2),
        usb("usb_a", 5, parent=PORT),
        usb("usb_b", 6, parent=PORT),
    )
}
ADDRESSES = tuple(one.facts.address for one in DEVICES.values() if isinstance(one.facts, PciFacts | UsbFacts))
VMS = ("one", "two", "three")

held = st.tuples(
    st.sampled_from(VMS),
    st.frozensets(st.sampled_from(range(len(ADDRESSES))), max_size=3),
    st.frozensets(st.sampled_from(range(len(ADDRESSES))), max_size=2),
    st.booleans(),
)
watcher = st.integers(0, 9)
action = st.one_of(
    st.tuples(st.just("hold"), st.lists(held, min_size=1, max_size=3, unique_by=lambda one: one[0])),
    st.tuples(st.just("rename"), st.sampled_from(VMS), st.sampled_from(("later", "one", "two"))),
    st.tuples(st.just("end"), st.sampled_from(VMS)),
    st.tuples(st.just("plug"), st.frozensets(st.sampled_from(sorted(DEVICES)), min_size=1)),
    st.tuples(st.just("unplug"), st.frozensets(st.sampled_from(sorted(DEVICES)), min_size=1)),
    st.tuples(st.just("swap")),
    st.tuples(st.just("driver"), st.sampled_from(range(3)), st.sampled_from(("e1000e", "vfio-pci", None))),
    st.tuples(st.just("stall"), watcher, st.sampled_from((0.0, 0.01, 0.3, 40.0))),
    st.tuples(st.just("break"), watcher, st.integers(0, 3), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from((0.005, 0.05, 0.11, 1.0, 20.0))),
    st.tuples(st.just("restart"), st.booleans()),
    st.tuples(st.just("adopt")),
)


class Drama:
    """A host whose devices and VMs change, and ten clients that follow it."""

    def __init__(self, keep_changes: int) -> None:
        self.served = served = Served(keep_changes)
        self._source = 0
        self._devices = dict(DEVICES)
        self._serials = ["s1", "s2"]
        self._domains = {name: domain(name, None) for name in VMS}
        self._tell_serials()
        self._everything()
        uids = {name: view.uid for name, view in served.store.devices.items()}
        wanted = device_pb2.DeviceFilter
        Watcher(served, "all holders")
        Watcher(served, "of a device", devices=["pci_0000_01_00_0"])
        Watcher(served, "of a uid, in a VM by UUID", devices=[uids["usb_a"], PORT], vms=[self._domains["one"].vm.uuid])
        Watcher(served, "of a VM that is not there yet", vms=["later", "nobody"])
        Watcher(served, "all devices", filter=wanted())
        Watcher(served, "all devices by uid", by=by_uid, filter=wanted())
        Watcher(served, "by driver", filter=wanted(drivers=["vfio-pci"]))
        Watcher(served, "below a port", by=by_uid, filter=wanted(parent=PORT, types=["usb_device"]))
        Watcher(served, "with a function", filter=wanted(affected_by="pci_0000_01_00_0"))
        Watcher(served, "with a port by uid", by=by_uid, filter=wanted(affected_by=uids[PORT]))

    def _tell_serials(self) -> None:
        for number, (name, serial) in enumerate(zip(("usb_a", "usb_b"), self._serials, strict=True)):
            self.served.told[name] = IdentityFacts("root", str(number), serial)

    def _everything(self) -> None:
        self._change(devices=self._devices.values(), domains=self._domains.values())

    def _change(self, **what: object) -> None:
        self._source += 1
        self.served.change(SOURCES[self._source % 3], **what)  # type: ignore[arg-type]

    def run(self, action: tuple[str, ...]) -> None:
        name, *arguments = action
        act: Callable[..., None] = getattr(self, f"_do_{name}")
        act(*arguments)
        for one in self.served.watchers:
            one.check()
            if not one.alive:
                one.connect()

    def _do_hold(self, told: list[tuple[str, frozenset[int], frozenset[int], bool]]) -> None:
        for name, live, config, runs in told:
            entries = [tuple(entry(ADDRESSES[at], f"ua-{at}") for at in sorted(chosen)) for chosen in (live, config)]
            made = domain(name, entries[0] if runs else None, entries[1])
            kept = self._domains.get(name)
            self._domains[name] = renamed(made, kept.vm.name) if kept is not None else made
        self._change(domains=[self._domains[name] for name, *_ in told])

    def _do_rename(self, vm: str, name: str) -> None:
        if vm in self._domains:
            self._domains[vm] = renamed(self._domains[vm], name)
            self._change(domains=[self._domains[vm]])

    def _do_end(self, vm: str) -> None:
        gone = self._domains.pop(vm, None)
        self._change(ended=[gone.vm.uuid] if gone is not None else [])

    def _do_plug(self, names: frozenset[str]) -> None:
        fresh = {name: DEVICES[name] for name in sorted(names) if name not in self._devices}
        self._devices.update(fresh)
        self._change(devices=fresh.values())

    def _do_unplug(self, names: frozenset[str]) -> None:
        gone = sorted(names & self._devices.keys())
        for name in gone:
            del self._devices[name]
        self._change(gone=gone)

    def _do_swap(self) -> None:
        """The two sticks change places: each name is another device's now."""
        self._serials.reverse()
        self._tell_serials()
        moved = []
        for name in ("usb_a", "usb_b"):
            known = self._devices.get(name)
            if known is not None and isinstance(known.facts, UsbFacts):
                address = UsbAddress(1, 11 - known.facts.address.device)
                self._devices[name] = replace(known, facts=replace(known.facts, address=address))
                moved.append(self._devices[name])
        self._change(devices=moved)

    def _do_driver(self, at: int, driver: str | None) -> None:
        address = ADDRESSES[at]
        assert isinstance(address, PciAddress)
        self.served.drivers[address] = DriverState(present=True, driver=driver)
        name = sorted(DEVICES)[at]
        if name in self._devices:
            self._change(look_at=[name])

    def _do_stall(self, at: int, seconds: float) -> None:
        self.served.watchers[at].stall_s = seconds

    def _do_break(self, at: int, forget: int, changes_only: bool) -> None:  # noqa: FBT001  as drawn
        one = self.served.watchers[at]
        one.disconnect(forget)
        one.connect(changes_only=changes_only)

    def _do_wait(self, seconds: float) -> None:
        self.served.rest(seconds)

    def _do_restart(self, new: bool) -> None:  # noqa: FBT001  as drawn
        for one in self.served.watchers:
            one.disconnect()
        self.served.restart(new=new)
        self._everything()

    def _do_adopt(self) -> None:
        self.served.adopt()

    def settle(self) -> None:
        """Every client reads again: before long each has what its list says."""
        for one in self.served.watchers:
            one.stall_s = 0.0
        for _ in range(3):
            self.served.rest(61.0)
            for one in self.served.watchers:
                one.check()
                if not one.alive:
                    one.connect()
        for one in self.served.watchers:
            assert one.state == one.listed(), one.label


@pytest.fixture(autouse=True)
def _small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MESSAGE_BYTES", 400)  # two holders: batches and snapshots are split


@settings(settings.get_profile(PROFILE))
@given(st.integers(1, 40), st.lists(action, max_size=40))
def test_what_a_client_has_is_what_the_list_says(keep_changes: int, actions: list[tuple[str, ...]]) -> None:
    drama = Drama(keep_changes)
    try:
        for one in drama.served.watchers:
            one.connect()
        for what in actions:
            drama.run(what)
        drama.settle()
    finally:
        drama.served.end()
