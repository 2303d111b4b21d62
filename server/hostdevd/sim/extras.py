"""`FILE.toml`: what the node file of a simulated host cannot say. Every table and key may be left out.

    [host]                          # what `hostdevd check` finds
    name = "simulated"
    iommu = true                    # false: no device has an IOMMU group either
    interrupt_remapping = true
    vfio = true
    sg = true                       # the sg module; without it no LUN can be passed
    kernel = "6.1.0"                # its release: before 5.19 some groups cannot leave a running guest

    [host.unknown_uses]             # uses that cannot be read, by node device type: their devices are refused
    net = "netlink is not allowed"

    [uses]                          # by node device: how the host uses it (kinds of `HostUseKind`)
    block_nvme1n1_S1 = [{ kind = "MOUNT", detail = "/data" }]

    [drivers.pci_0000_0e_00_0]      # by PCI node device; `<driver>` in the node file is what is bound now
    native = "e1000e"               # what the kernel probes for it (default: what the node file has bound)
    override = "vendor_test"        # its driver_override
    bars_mib = [16384, 32]          # its memory regions, all of them 64 bits wide

    [identities.usb_1_4]            # by node device: fields of IdentityFacts, over what is derived
    serial = "STICK1"

    [stacks]                        # by device node: the node devices of the disks below it
    "/dev/mapper/vg0-data" = ["block_sda_A"]

    [guests.deaf]                   # by domain
    unplug = "never"                # "immediate" (default), "delayed", "reject", "never"
    delay_s = 2.0                   # for "delayed"
    eject_after_s = 0.2             # lets go of every device by itself, so long after it was attached

    [[faults]]                      # an error at a named call of the hypervisor's port, once
    call = "attach"                 # attach, detach, nodedev_detach, nodedev_reattach, node_device, ...
    nth = 2                         # at the second such call (default 1)
    code = 38                       # libvirt's number
    text = "cannot do that"
    domain = "alpha"                # count only calls for this domain (name)
    device = "pci_0000_01_00_0"     # count only calls for this node device
    after = true                    # the call takes effect before it fails
    gone = true                     # the connection breaks in the call

    [roles]                         # names for tests: role = node device
    nic_single = "pci_0000_01_00_0"

What is misspelt is refused by its name, and so is a device or domain that the node file does not have.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum, unique
from pathlib import Path
from typing import Any, TypeVar

from hostdevd.core.model import HostUse, HostUseKind
from hostdevd.core.ports import IdentityFacts

T = TypeVar("T")


@unique
class Unplug(StrEnum):
    """How a guest answers the request to let a PCI device go."""

    IMMEDIATE = "immediate"
    DELAYED = "delayed"
    REJECT = "reject"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class GuestBehaviour:
    """What a guest does; `eject_after_s` below 0 means that it keeps what it gets."""

    unplug: Unplug = Unplug.IMMEDIATE
    delay_s: float = 1.0
    eject_after_s: float = -1.0


@dataclass(frozen=True, slots=True)
class Fault:
    """An error to inject once, at the `nth` call that fits."""

    call: str
    nth: int = 1
    code: int = 1
    text: str = "internal error: injected by the simulation"
    domain: str = ""
    device: str = ""
    after: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True)
class DriverExtras:
    """A PCI function's driver beyond what is bound now; empty text where there is nothing to say."""

    native: str = ""
    override: str = ""
    bars_mib: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HostExtras:
    """The host as `hostdevd check` sees it."""

    name: str = "simulated"
    iommu: bool = True
    interrupt_remapping: bool = True
    vfio: bool = True
    sg: bool = True
    kernel: str = "6.1.0"
    unknown_uses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Extras:
    """All of the file."""

    host: HostExtras = HostExtras()
    uses: Mapping[str, tuple[HostUse, ...]] = field(default_factory=dict)
    drivers: Mapping[str, DriverExtras] = field(default_factory=dict)
    identities: Mapping[str, IdentityFacts] = field(default_factory=dict)
    stacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    guests: Mapping[str, GuestBehaviour] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)


def read_extras(path: Path) -> Extras:
    """Read the file, which may be missing; ValueError naming file, place and fault."""
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except FileNotFoundError:
        return Extras()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        return _extras(document)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_names(extras: Extras, devices: Iterable[str], domains: Iterable[str]) -> None:
    """ValueError for a device or domain that the node file does not have."""
    known_devices, known_domains = set(devices), set(domains)
    named = (
        *(("uses", name) for name in extras.uses),
        *(("drivers", name) for name in extras.drivers),
        *(("identities", name) for name in extras.identities),
        *(("stacks", name) for names in extras.stacks.values() for name in names),
        *(("roles", name) for name in extras.roles.values()),
        *(("faults", fault.device) for fault in extras.faults if fault.device),
    )
    for table, name in named:
        if name not in known_devices:
            raise ValueError(f"[{table}] names the device {name!r}, which the node file does not have")
    behaving = (
        *(("guests", name) for name in extras.guests),
        *(("faults", fault.domain) for fault in extras.faults if fault.domain),
    )
    for table, name in behaving:
        if name not in known_domains:
            raise ValueError(f"[{table}] names the domain {name!r}, which the node file does not have")


def _extras(document: dict[str, Any]) -> Extras:
    _known(document, "the file", [each.name for each in fields(Extras)])
    return Extras(
        host=_record(HostExtras, document.get("host", {}), "[host]"),
        uses=_each(document, "uses", _uses),
        drivers=_each(document, "drivers", lambda value, place: _record(DriverExtras, value, place)),
        identities=_each(document, "identities", lambda value, place: _record(IdentityFacts, value, place)),
        stacks=_each(document, "stacks", lambda value, place: tuple(_text(v, place) for v in _list(value, place))),
        guests=_each(document, "guests", _guest),
        faults=tuple(_fault(value) for value in _list(document.get("faults", []), "[[faults]]")),
        roles=_each(document, "roles", _text),
    )


def _uses(value: object, place: str) -> tuple[HostUse, ...]:
    return tuple(_use(each, place) for each in _list(value, place))


def _use(value: object, place: str) -> HostUse:
    table = _table(value, place)
    _known(table, place, ["kind", "detail"])
    kind = _choice(HostUseKind, table.get("kind"), f"{place}: kind")
    return HostUse(kind, _text(table.get("detail", ""), f"{place}: detail"))


def _guest(value: object, place: str) -> GuestBehaviour:
    table = dict(_table(value, place))
    unplug = _choice(Unplug, table.pop("unplug", Unplug.IMMEDIATE), f"{place}: unplug")
    rest = _record(GuestBehaviour, table, place)
    return GuestBehaviour(unplug, rest.delay_s, rest.eject_after_s)


def _fault(value: object) -> Fault:
    fault = _record(Fault, value, "[[faults]]")
    if fault.nth < 1:
        raise ValueError(f"[[faults]]: nth is {fault.nth}, calls are counted from 1")
    return fault


# --- reading TOML's values ---------------------------------------------------------------------------


def _record(kind: Callable[..., T], value: object, place: str) -> T:
    """A dataclass of plain values, one key for each field."""
    table = _table(value, place)
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]  # only dataclasses come here
    _known(table, place, known)
    read: dict[str, object] = {}
    for key, each in known.items():
        if key in table:
            read[key] = _plain(table[key], str(each.type), f"{place}: {key}")
        elif each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f"{place}: {key} is missing")
    return kind(**read)


def _plain(value: object, kind: str, place: str) -> object:
    # TOML's 1 is a good number of seconds, its true is no number at all.
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind == "Mapping[str, str]":
        return {key: _text(text, f"{place}.{key}") for key, text in _table(value, place).items()}
    if kind == "tuple[int, ...]":
        return tuple(_plain(each, "int", place) for each in _list(value, place))
    expected = {"str": str, "int": int, "float": float, "bool": bool}.get(kind)
    if expected is None or type(value) is not expected:
        raise ValueError(f"{place} is {value!r}, not of type {kind}")
    return value


def _each(document: dict[str, Any], key: str, read: Callable[[object, str], T]) -> dict[str, T]:
    return {name: read(value, f"[{key}] {name}") for name, value in _table(document.get(key, {}), f"[{key}]").items()}


def _choice(kind: type[T], value: object, place: str) -> T:
    try:
        return kind(value)  # type: ignore[call-arg]  # an enum's lookup by value
    except ValueError:
        known = ", ".join(map(str, kind))  # type: ignore[call-overload]  # an enum is its values
        raise ValueError(f"{place} is {value!r}, not one of {known}") from None


def _known(table: Mapping[str, object], place: str, known: Iterable[str]) -> None:
    allowed = list(known)
    for key in table:
        if key not in allowed:
            raise ValueError(f"{place}: unknown key {key!r} (known: {', '.join(allowed)})")


def _table(value: object, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{place} is {value!r}, not a table")  # noqa: TRY004  one exception type for a broken file
    return value


def _list(value: object, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{place} is {value!r}, not a list")  # noqa: TRY004  one exception type for a broken file
    return value


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place} is {value!r}, not text")  # noqa: TRY004  one exception type for a broken file
    return value
