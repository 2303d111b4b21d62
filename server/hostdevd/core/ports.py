"""What the core asks of the world: the hypervisor, the host it runs on, the clock.

`virt` and `host` implement these on a real machine, `sim` on a simulated one; the contract suite runs on
both. All methods are called on the event loop and must not block it: what waits is `async`. Events are
delivered on the event loop too, by the callback given to `start`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import Protocol

from hostdevd.core.addresses import MdevUuid, PciAddress, ScsiAddress, UsbAddress, UsbProduct
from hostdevd.core.model import Bar, Check, Domain, DomainEntry, HostUses, HypervisorInfo, Network, NodeDevice
from hostdevd.core.observing import CallObserver

# --- events ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Heard:
    """What is told, and when it was: by the monotonic clock, where it came from libvirt on libvirt's own thread."""

    heard_s: float = field(default_factory=time.monotonic, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Connected(_Heard):
    """The hypervisor answers: read everything again."""


@dataclass(frozen=True, slots=True)
class Disconnected(_Heard):
    """The hypervisor went away; a `Connected` follows when it is back."""

    why: str


@dataclass(frozen=True, slots=True)
class NodeDeviceChanged(_Heard):
    """A node device appeared, vanished or changed: read it again by name."""

    name: str


@dataclass(frozen=True, slots=True)
class DomainChanged(_Heard):
    """A domain changed in any way (state, definition, live XML, removal): read it again."""

    uuid: str


@dataclass(frozen=True, slots=True)
class DomainStopped(_Heard):
    """A domain has no guest any more: shut down, destroyed, crashed or migrated away."""

    uuid: str


@dataclass(frozen=True, slots=True)
class DomainStarted(_Heard):
    """A domain has a guest now."""

    uuid: str


@dataclass(frozen=True, slots=True)
class DomainRebooted(_Heard):
    """The guest rebooted: an unplug request that it had not answered is forgotten."""

    uuid: str


@dataclass(frozen=True, slots=True)
class DeviceRemoved(_Heard):
    """The guest let go of the device with this alias."""

    uuid: str
    alias: str


@dataclass(frozen=True, slots=True)
class DeviceRemovalFailed(_Heard):
    """The guest refused to let go of the device with this alias."""

    uuid: str
    alias: str


@dataclass(frozen=True, slots=True)
class NetworksChanged(_Heard):
    """A libvirt network started, stopped or was defined anew: read all of them again."""


@dataclass(frozen=True, slots=True)
class HostChanged(_Heard):
    """Drivers or uses of the host changed (uevent, mount, address): read uses and drivers again."""

    path: str = ""


Event = (
    Connected
    | Disconnected
    | NodeDeviceChanged
    | DomainChanged
    | DomainStopped
    | DomainStarted
    | DomainRebooted
    | DeviceRemoved
    | DeviceRemovalFailed
    | NetworksChanged
    | HostChanged
)

EventSink = Callable[[Event], None]


# --- failures of the ports ---------------------------------------------------------------------------


class HypervisorError(Exception):
    """libvirt refused or failed: its error number and text (`code` is `virErrorNumber`)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"libvirt error {code}: {text}")
        self.code = code
        self.text = text


class HypervisorGone(HypervisorError):
    """There is no connection to libvirt, or it broke during the call: the outcome is not known."""

    def __init__(self, text: str = "not connected") -> None:
        super().__init__(38, text)


class HypervisorBusy(HypervisorError):
    """Another job holds the domain's lock in libvirt; nothing was done."""


class NoSuchObject(HypervisorError):
    """libvirt has no such node device, domain, network or device alias (any more)."""


# --- the hypervisor ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Workers:
    """A pool of threads: jobs that wait for one, threads that work, and those whose job nobody waits for any more."""

    waiting: int
    busy: int
    stuck: int


@unique
class Target(StrEnum):
    """Which of a domain's two definitions a call changes; one call changes one."""

    LIVE = "LIVE"
    CONFIG = "CONFIG"


@dataclass(frozen=True, slots=True)
class HostdevSpec:
    """One `<hostdev>` to add to a domain.

    `alias` is a user alias (`ua-hostdev-...`). `managed` is for PCI only. `unassigned` reserves the
    function without showing it. `optional` is `startupPolicy='optional'`, USB only. `drive` is the guest's
    (controller, bus, target, unit), SCSI only. `guest` is its place in the guest, PCI only; None: libvirt chooses.
    """

    alias: str
    source: PciAddress | UsbAddress | UsbProduct | ScsiAddress | MdevUuid
    managed: bool = False
    unassigned: bool = False
    optional: bool = False
    drive: tuple[int, int, int, int] | None = None
    guest: PciAddress | None = None


@dataclass(frozen=True, slots=True)
class MdevSpec:
    """A mediated device to make: libvirt's name of its parent, one of the parent's types, its UUID in lower case.

    `attributes` are the vendor's, in the order in which they are to be written. A `persistent` one is defined too, and
    started with its parent from then on.
    """

    parent: str
    type_id: str
    uuid: str
    attributes: tuple[tuple[str, str], ...] = ()
    persistent: bool = False


class HypervisorPort(Protocol):
    """libvirt, or something that behaves like it. Every call may raise `HypervisorError`."""

    async def start(self, sink: EventSink) -> None:
        """Begin connecting, in the background and for ever; `Connected` tells when it answers."""

    async def close(self) -> None:
        """Stop events, end threads, close the connection."""

    async def listen_again(self) -> None:
        """Register anew for the events of node devices, which may have ended in silence."""

    async def info(self) -> HypervisorInfo:
        """Who answers."""

    def call_counts(self) -> Mapping[str, int]:
        """How often each function of libvirt's was called so far; from any thread."""

    def observe(self, observer: CallObserver) -> None:
        """Tell of every call from now on."""

    def workers(self) -> Mapping[str, Workers]:
        """The threads that make the calls, by what they are for; from any thread."""

    def why_away(self) -> str:
        """Why nobody answers now, as of the last attempt to connect; empty while somebody does."""

    def refused(self) -> Sequence[str]:
        """What libvirt does not let this user do, as far as it was tried: a sentence for each function."""

    async def node_device_names(self) -> frozenset[str]:
        """Names of all node devices: cheap, to find what a full read would change."""

    async def node_devices(self) -> Sequence[NodeDevice]:
        """All node devices, read and parsed; one that vanishes meanwhile is left out."""

    async def node_device(self, name: str) -> NodeDevice:
        """One node device; `NoSuchObject` when it is gone."""

    async def domains(self) -> Sequence[Domain]:
        """All domains, running or not, with both definitions."""

    async def domain(self, uuid: str) -> Domain:
        """One domain by UUID; `NoSuchObject` when it is gone."""

    async def networks(self) -> Sequence[Network]:
        """The active networks that hand out PCI functions; none where libvirt has no network driver."""

    async def nodedev_detach(self, name: str) -> None:
        """Take a PCI function from its driver and bind it to vfio-pci."""

    async def nodedev_reattach(self, name: str) -> None:
        """Give a PCI function back to the host: the kernel probes a driver."""

    async def attach(self, uuid: str, spec: HostdevSpec, target: Target) -> None:
        """Add a hostdev to one definition of a domain; returns when libvirt has done it."""

    async def detach(self, uuid: str, entry: DomainEntry, target: Target) -> None:
        """Ask for an entry's removal, by its alias, or by its source where it has none (config only).

        CONFIG: done on return. LIVE: only asked, `DeviceRemoved` follows.
        """

    async def create_mdev(self, spec: MdevSpec) -> str:
        """Make a mediated device, or what is missing of one that was begun; libvirt's name of it.

        A definition that was made for it and could not be started is taken back.
        """

    async def delete_mdev(self, name: str) -> None:
        """Stop a mediated device and forget its definition; `NoSuchObject` when there is neither."""


# --- the host ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IdentityFacts:
    """What sysfs tells of who a device is, beyond libvirt's XML; empty text where there is nothing.

    PCI: `root` (ACPI path of the host bridge, else domain and root bus) and `path` (slot.function below
    it, `1c.0/0.0`). USB: `root` (root and path of the controller's PCI function, joined by a slash: its
    sysfs path would move with the bus numbers), `path` (port path `2.1`), `serial`, `interfaces` (classes,
    `08,03`). SCSI: `wwid`, `serial`, `path` (the target's path without the host's number). PCI also
    `subsystem` (`1af4:1100`).
    """

    root: str = ""
    path: str = ""
    serial: str = ""
    wwid: str = ""
    interfaces: str = ""
    subsystem: str = ""


Listed = Callable[[], frozenset[str] | None]
"""The network interfaces that libvirt lists now; None while it does not answer. Quick, on the event loop."""


def nothing_listed() -> None:
    """`Listed` where there is no libvirt to compare the host with."""


@dataclass(frozen=True, slots=True)
class DriverState:
    """What sysfs says of a PCI function now; `present` is False when the function is gone."""

    present: bool
    driver: str | None = None
    override: str | None = None


@dataclass(frozen=True, slots=True)
class FunctionCounts:
    """How many virtual functions a physical one has now, and how many it can have."""

    now: int
    total: int


@unique
class FunctionsFault(StrEnum):
    """Why the number of virtual functions was not set."""

    NO_HELPER = "NO_HELPER"
    NOT_ALLOWED = "NOT_ALLOWED"
    IN_USE = "IN_USE"
    FAILED = "FAILED"


class FunctionsError(Exception):
    """The number was not set, or not in whole: the kernel or what stands before it says why."""

    def __init__(self, fault: FunctionsFault, text: str) -> None:
        super().__init__(text)
        self.fault = fault
        self.text = text


class HostPort(Protocol):
    """The machine that hostdevd runs on. Reading fails closed: what cannot be read is said."""

    async def start(self, sink: EventSink) -> None:
        """Begin to watch for changes of drivers and uses."""

    async def close(self) -> None:
        """Stop watching."""

    async def uses(self, listed: Listed = nothing_listed) -> HostUses:
        """What the host uses now, read anew.

        An interface of `listed` that the host lacks is another host's, of which nothing can be told: all is
        unknown then. It is asked again until the two agree, for a few seconds.
        """

    async def is_still(self, as_of: Hashable, listed: Listed = nothing_listed) -> bool:
        """Whether another read would tell the uses that were read as of then (`HostUses.as_of`).

        True only where the kernel tells of changes and has told of none, and what it does not tell of is as it was.
        """

    def driver(self, address: PciAddress) -> DriverState:
        """The driver bound to a PCI function now (a read of sysfs, microseconds)."""

    def identity(self, device: NodeDevice) -> IdentityFacts:
        """What sysfs tells of the device's identity; empty facts when it is gone."""

    def block_paths(self, path: str) -> tuple[str, ...]:
        """The sysfs paths of the whole disks below a block device's path, links and stacks followed."""

    def bars(self, address: PciAddress) -> tuple[Bar, ...]:
        """The memory regions of a PCI function; none where they cannot be told: they are only warned of."""

    def has_generic_node(self, address: ScsiAddress) -> bool:
        """Whether a LUN has a SCSI generic node (`sg` is loaded); True where it cannot be told."""

    def kernel_release(self) -> str:
        """The running kernel's release (`6.1.0-18-amd64`); empty where it cannot be told."""

    async def functions(self, address: PciAddress) -> FunctionCounts | None:
        """The virtual functions of a function now; None where it cannot have any.

        Waits while the number is being changed, by whomever: the kernel does not tell it half-way.
        """

    async def set_functions(self, address: PciAddress, count: int) -> None:
        """Have a physical function make or remove virtual ones, however long its driver takes; `FunctionsError`.

        A wait that is cancelled does not stop it.
        """

    def boot_id(self) -> str:
        """The kernel's boot id: another one means that addresses may have moved."""

    async def checks(self, listed: Listed = nothing_listed) -> Sequence[Check]:
        """IOMMU, INTERRUPT_REMAPPING, VFIO, HOST_USES and PERMISSIONS of `GetHost`; `listed` as for `uses`."""


class Clock(Protocol):
    """Time, passed in so that tests can move it."""

    def now(self) -> float:
        """Seconds since the epoch, for what people read and what outlives the service. It may jump."""

    def monotonic(self) -> float:
        """Seconds since some moment, for how long something takes. It never jumps, and says nothing elsewhere."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""
