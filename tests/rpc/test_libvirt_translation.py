"""What libvirt says, in the port's words: the parts that the test driver never says."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

from hostdevd.core.model import ConditionCode, VmState
from hostdevd.core.ports import (
    DeviceRemovalFailed,
    DeviceRemoved,
    DomainChanged,
    DomainRebooted,
    DomainStarted,
    DomainStopped,
    Event,
    HypervisorError,
    HypervisorGone,
    NetworksChanged,
    NodeDeviceChanged,
    NoSuchObject,
)
from hostdevd.virt.xml.nodedev import node_device

libvirt = pytest.importorskip("libvirt")
calls = pytest.importorskip("hostdevd.virt.calls")
events = pytest.importorskip("hostdevd.virt.events")
domains = pytest.importorskip("hostdevd.virt.domains")
reading = pytest.importorskip("hostdevd.virt.reading")

UUID = "44444444-4444-4444-8444-444444444444"
LIVE = "<domain id='1'><devices/></domain>"
INACTIVE = "<domain><devices/></domain>"


class Domain:
    """A domain that is in one state, then the next, each time that it is asked."""

    def __init__(self, *moments: tuple[int, str]) -> None:
        self._moments = list(moments)

    def name(self) -> str:
        return "vm4"

    def UUIDString(self) -> str:  # noqa: N802  libvirt's name
        return UUID

    def state(self) -> list[int]:
        return [self._moments[0][0], 0]

    def XMLDesc(self, flags: int = 0) -> str:  # noqa: N802
        if flags & libvirt.VIR_DOMAIN_XML_INACTIVE:
            return INACTIVE
        return (self._moments.pop(0) if len(self._moments) > 1 else self._moments[0])[1]

    def isPersistent(self) -> int:  # noqa: N802
        return 1

    def hasManagedSaveImage(self) -> int:  # noqa: N802
        return 1


class Device:
    """A node device."""

    def name(self) -> str:
        return "pci_0000_05_00_0"

    def XMLDesc(self, _flags: int = 0) -> str:  # noqa: N802
        return "<device>"


class Connection:
    """Keeps the callbacks that were registered; `refuses` is libvirt's answer to whoever asks for networks."""

    def __init__(self, refuses: int = 0, alive: int = 1) -> None:
        self.domain: dict[int, Any] = {}
        self.device: dict[int, Any] = {}
        self.network: dict[int, Any] = {}
        self.refuses = refuses
        self.alive = alive

    def isAlive(self) -> int:  # noqa: N802
        return self.alive

    def domainEventRegisterAny(self, _domain: None, event: int, callback: Any, _opaque: None) -> int:  # noqa: N802
        self.domain[event] = callback
        return event

    def nodeDeviceEventRegisterAny(self, _device: None, event: int, callback: Any, _opaque: None) -> int:  # noqa: N802
        self.device[event] = callback
        return event

    def networkEventRegisterAny(self, _network: None, event: int, callback: Any, _opaque: None) -> int:  # noqa: N802
        self._answer()
        self.network[event] = callback
        return event

    def listAllNetworks(self, _flags: int) -> list[Any]:  # noqa: N802
        self._answer()
        return []

    def _answer(self) -> None:
        if self.refuses:
            error = libvirt.libvirtError("no")
            error.err = (self.refuses, 0, "no", 2, "", "", "", 0, 0)
            raise error

    def domainEventDeregisterAny(self, number: int) -> int:  # noqa: N802
        del self.domain[number]
        return 0

    def nodeDeviceEventDeregisterAny(self, number: int) -> int:  # noqa: N802
        del self.device[number]
        return 0

    def networkEventDeregisterAny(self, number: int) -> int:  # noqa: N802
        del self.network[number]
        return 0


def link(handle: Any = None) -> Any:
    """A link to nobody."""
    return calls.Link(handle or Connection(), calls.CallCounter())


# --- domain states -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (libvirt.VIR_DOMAIN_RUNNING, VmState.RUNNING),
        (libvirt.VIR_DOMAIN_BLOCKED, VmState.RUNNING),
        # On its way down it still holds its devices.
        (libvirt.VIR_DOMAIN_SHUTDOWN, VmState.RUNNING),
        (libvirt.VIR_DOMAIN_PAUSED, VmState.PAUSED),
        (libvirt.VIR_DOMAIN_PMSUSPENDED, VmState.SUSPENDED),
        # A panicked guest that is kept (`on_crash` preserve) holds them too.
        (libvirt.VIR_DOMAIN_CRASHED, VmState.PAUSED),
    ],
)
def test_states_of_a_domain_with_a_guest(state: int, expected: VmState) -> None:
    domain = domains.DomainReader().read(link(), Domain((state, LIVE)))
    assert domain.vm.state is expected
    assert domain.vm.state.active
    assert domain.live is not None


@pytest.mark.parametrize(
    ("state", "expected"),
    [(libvirt.VIR_DOMAIN_SHUTOFF, VmState.SHUT_OFF), (libvirt.VIR_DOMAIN_CRASHED, VmState.CRASHED)],
)
def test_states_of_a_domain_without_a_guest(state: int, expected: VmState) -> None:
    domain = domains.DomainReader().read(link(), Domain((state, INACTIVE)))
    assert (domain.vm.state, domain.live) == (expected, None)
    assert domain.config is not None


def test_a_domain_that_stops_while_it_is_read_has_no_live_definition() -> None:
    domain = Domain((libvirt.VIR_DOMAIN_RUNNING, INACTIVE), (libvirt.VIR_DOMAIN_SHUTOFF, INACTIVE))
    assert domains.DomainReader().read(link(), domain).live is None


def test_a_domain_that_never_holds_still_is_an_error() -> None:
    with pytest.raises(HypervisorError):
        domains.DomainReader().read(link(), Domain((libvirt.VIR_DOMAIN_RUNNING, INACTIVE)))


def test_managed_save_is_told() -> None:
    assert domains.DomainReader().read(link(), Domain((libvirt.VIR_DOMAIN_SHUTOFF, INACTIVE))).vm.managed_save


def test_a_device_that_cannot_be_read_is_listed_with_a_condition() -> None:
    device = reading.as_node_device(reading.read_node_device(link(), Device()), node_device)
    assert device.name == "pci_0000_05_00_0"
    assert [condition.code for condition in device.conditions] == [ConditionCode.XML_INVALID]


def test_what_is_no_text_is_a_fault_of_that_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt's binding raises it: a device's own strings need not be UTF-8."""

    def say(_device: Device, _flags: int = 0) -> str:
        return b"<device><vendor>\xff".decode()

    monkeypatch.setattr(Device, "XMLDesc", say)
    found = reading.as_node_device(reading.read_node_device(link(), Device()), node_device)
    assert (found.name, found.undescribed) == ("pci_0000_05_00_0", True)
    assert "no text" in found.conditions[0].message


def test_a_domain_that_cannot_be_read_any_more_has_what_it_had_and_a_gap() -> None:
    hostdev = "<hostdev type='pci'><source><address bus='5' slot='0'/></source></hostdev>"
    held = f"<domain id='1'><devices>{hostdev}</devices></domain>"
    for broken in ("<domain id='1'>", "<!DOCTYPE domain><domain id='1'/>", "<x>" * 1000 + "</x>" * 1000):
        reader = domains.DomainReader()
        before = reader.read(link(), Domain((libvirt.VIR_DOMAIN_RUNNING, held))).live
        after = reader.read(link(), Domain((libvirt.VIR_DOMAIN_RUNNING, broken)))
        assert after.live.gap
        assert after.live.entries == before.entries
        assert after.config.gap == ""
        assert reader.read(link(), Domain((libvirt.VIR_DOMAIN_RUNNING, held))).live == before


@pytest.mark.parametrize(
    ("code", "alive", "outcome"),
    [
        (libvirt.VIR_ERR_INTERNAL_ERROR, 1, None),
        (libvirt.VIR_ERR_ACCESS_DENIED, 1, None),
        (libvirt.VIR_ERR_NO_NODE_DEVICE, 1, NoSuchObject),
        (libvirt.VIR_ERR_INTERNAL_ERROR, 0, HypervisorGone),
    ],
)
def test_a_device_that_libvirt_cannot_describe_is_told_from_one_that_is_gone(
    code: int, alive: int, outcome: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_device: Device, _flags: int = 0) -> NoReturn:
        error = libvirt.libvirtError("cannot open config")
        error.err = (code, 0, "cannot open config", 2, "", "", "", 0, 0)
        raise error

    monkeypatch.setattr(Device, "XMLDesc", refuse)
    if outcome is not None:
        with pytest.raises(outcome):
            reading.read_node_device(link(Connection(alive=alive)), Device())
        return
    found = reading.as_node_device(reading.read_node_device(link(Connection(alive=alive)), Device()), node_device)
    assert (found.name, found.undescribed) == ("pci_0000_05_00_0", True)


# --- events ------------------------------------------------------------------------------------------

LIFECYCLE = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE


@pytest.mark.parametrize(
    ("event_id", "arguments", "expected"),
    [
        (LIFECYCLE, (libvirt.VIR_DOMAIN_EVENT_STARTED, 0), [DomainStarted(UUID), DomainChanged(UUID)]),
        (LIFECYCLE, (libvirt.VIR_DOMAIN_EVENT_STOPPED, 0), [DomainStopped(UUID), DomainChanged(UUID)]),
        # Only a panic: the guest may stay as it is; STOPPED follows when it does not.
        (LIFECYCLE, (libvirt.VIR_DOMAIN_EVENT_CRASHED, 0), [DomainChanged(UUID)]),
        (LIFECYCLE, (libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, 0), [DomainChanged(UUID)]),
        (LIFECYCLE, (libvirt.VIR_DOMAIN_EVENT_UNDEFINED, 0), [DomainChanged(UUID)]),
        # Of a version that is not known yet.
        (LIFECYCLE, (99, 0), [DomainChanged(UUID)]),
        (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, (), [DomainRebooted(UUID)]),
        (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, ("ua-1",), [DomainChanged(UUID)]),
        (
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
            ("ua-1",),
            [DeviceRemoved(UUID, "ua-1"), DomainChanged(UUID)],
        ),
        (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED, ("ua-1",), [DeviceRemovalFailed(UUID, "ua-1")]),
        (libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, (0, "uri"), [DomainChanged(UUID)]),
    ],
)
def test_domain_events(event_id: int, arguments: tuple[object, ...], expected: list[Event]) -> None:
    told: list[Event] = []
    connection = Connection()
    events.register(link(connection), told.append)
    connection.domain[event_id](connection, Domain((1, LIVE)), *arguments, None)
    assert told == expected


def test_node_device_events_tell_the_name() -> None:
    told: list[Event] = []
    connection = Connection()
    events.register_node_devices(link(connection), told.append)
    connection.device[libvirt.VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE](connection, Device(), 0, 0, None)
    connection.device[libvirt.VIR_NODE_DEVICE_EVENT_ID_UPDATE](connection, Device(), None)
    assert told == [NodeDeviceChanged("pci_0000_05_00_0")] * 2


def test_every_registration_can_be_taken_back() -> None:
    connection = Connection()
    undos = [
        *events.register(link(connection), lambda _: None),
        *events.register_node_devices(link(connection), lambda _: None),
    ]
    assert connection.domain
    assert connection.device
    assert connection.network
    for undo in undos:
        undo()
    assert (connection.domain, connection.device, connection.network) == ({}, {}, {})


# --- networks ----------------------------------------------------------------------------------------


def test_network_events_all_mean_to_read_again() -> None:
    told: list[Event] = []
    connection = Connection()
    events.register(link(connection), told.append)
    connection.network[libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE](connection, object(), 2, 0, None)
    assert told == [NetworksChanged()]


@pytest.mark.parametrize("refusal", [libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_SYSTEM_ERROR])
def test_without_network_events_the_rest_is_followed(refusal: int) -> None:
    connection = Connection(refusal)
    for undo in events.register(link(connection), lambda _: None):
        undo()
    assert (connection.domain, connection.device, connection.network) == ({}, {}, {})


def test_a_connection_that_breaks_while_it_registers_is_gone() -> None:
    with pytest.raises(HypervisorGone):
        events.register(link(Connection(libvirt.VIR_ERR_RPC, alive=0)), lambda _: None)


def test_a_libvirt_without_network_driver_has_no_networks() -> None:
    assert reading.list_networks(link(Connection(libvirt.VIR_ERR_NO_SUPPORT))) == []


def test_a_libvirt_without_its_network_daemon_has_no_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise calls.NoDaemon(libvirt.VIR_ERR_SYSTEM_ERROR, "no socket")

    connection = link(Connection())
    monkeypatch.setattr(connection, "call", refuse)
    assert reading.list_networks(connection) == []


def test_a_network_driver_that_fails_is_an_error() -> None:
    with pytest.raises(HypervisorError):
        reading.list_networks(link(Connection(libvirt.VIR_ERR_SYSTEM_ERROR)))
