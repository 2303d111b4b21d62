"""The declarative description of the lab: what hardware the host has, what guests it runs.

One TOML file (``topology.toml``) read on both sides: outside it becomes QEMU's arguments,
inside it tells which role is which device. A device row's keys are QEMU properties, passed
on as they are, but for the few names in ``_OWN_KEYS``.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any

from .errors import LabError

PropertyValue = bool | int | str

_OWN_KEYS = frozenset({"role", "driver", "disk", "root_port", "use", "plugged"})
_KEYS_OF_TABLE = {
    "machine": {"memory_mib", "cpus"},
    "scsi_debug": {"max_luns", "dev_size_mb"},
    "guest": {"name", "machine", "memory_mib", "running", "persistent", "cmdline"},
    "disk": {"size_mib", "format"},
}
_FORMATS = frozenset({"raw", "ext4", "swap"})


@dataclass(frozen=True, slots=True)
class Disk:
    """An image made fresh for each boot. ``format`` is ``raw``, ``ext4`` or ``swap``."""

    size_mib: int
    format: str


@dataclass(frozen=True, slots=True)
class Device:
    """One ``-device`` of the host. ``role`` is also its id in QEMU.

    ``root_port`` is the slot on pcie.0 of a pcie-root-port made for it (id ``port_<role>``).
    ``use`` says what the host does with it: ``mount:/dir``, ``swap``, ``lvm:GROUP``,
    ``md:NAME``, ``bridge:br0``, ``address:192.0.2.1/24``.
    ``plugged=False`` prepares its disk only, so that it can be added through the monitor.
    """

    role: str
    driver: str
    properties: tuple[tuple[str, PropertyValue], ...]
    disk: Disk | None
    root_port: str | None
    use: str
    plugged: bool

    def get(self, key: str, default: str = "") -> str:
        """A QEMU property as text."""
        return str(dict(self.properties).get(key, default))


@dataclass(frozen=True, slots=True)
class Guest:
    """A virtual machine of the lab host. ``machine`` is libvirt's: ``q35`` or ``pc``."""

    name: str
    machine: str
    memory_mib: int
    running: bool
    persistent: bool
    cmdline: str


@dataclass(frozen=True, slots=True)
class ScsiDebug:
    """Parameters of the kernel's scsi_debug module; ``max_luns`` 0 leaves it out."""

    max_luns: int
    dev_size_mb: int


@dataclass(frozen=True, slots=True)
class Topology:
    """The whole lab. ``cpus`` 0 means: as many as the machine has, from 2 to 4."""

    memory_mib: int
    cpus: int
    devices: tuple[Device, ...]
    guests: tuple[Guest, ...]
    scsi_debug: ScsiDebug

    def device(self, role: str) -> Device:
        """The row of one role; raises KeyError."""
        for device in self.devices:
            if device.role == role:
                return device
        raise KeyError(role)


def parse(text: str) -> Topology:
    """Read a topology file's text. Raises LabError naming the row that is wrong."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LabError(f"topology: {error}") from error
    unknown = set(raw) - {"machine", "device", "guest", "scsi_debug"}
    if unknown:
        raise LabError(f"topology: unknown table {min(unknown)!r}")
    machine = _known("machine", raw.get("machine", {}))
    debug = _known("scsi_debug", raw.get("scsi_debug", {}))
    topology = Topology(
        memory_mib=int(machine.get("memory_mib", 4096)),
        cpus=int(machine.get("cpus", 0)),
        devices=tuple(_device(row) for row in raw.get("device", [])),
        guests=tuple(_guest(_known("guest", row)) for row in raw.get("guest", [])),
        scsi_debug=ScsiDebug(int(debug.get("max_luns", 0)), int(debug.get("dev_size_mb", 8))),
    )
    _refuse_duplicates([d.role for d in topology.devices], "role")
    _refuse_duplicates([g.name for g in topology.guests], "guest")
    return topology


def _device(row: dict[str, Any]) -> Device:
    role, driver = row.get("role"), row.get("driver")
    if not role or not driver:
        raise LabError(f"topology: a device needs role and driver: {row!r}")
    disk = None
    if "disk" in row:
        table = _known("disk", row["disk"])
        disk = Disk(int(table.get("size_mib", 64)), str(table.get("format", "raw")))
        if disk.format not in _FORMATS:
            raise LabError(f"topology: {role}: unknown disk format {disk.format!r}")
    properties = []
    for key, value in row.items():
        if key in _OWN_KEYS:
            continue
        if not isinstance(value, (bool, int, str)):
            raise LabError(f"topology: {role}: {key} must be text, a number or a boolean")
        properties.append((key, value))
    return Device(
        role=str(role),
        driver=str(driver),
        properties=tuple(properties),
        disk=disk,
        root_port=str(row["root_port"]) if "root_port" in row else None,
        use=str(row.get("use", "")),
        plugged=bool(row.get("plugged", True)),
    )


def _guest(row: dict[str, Any]) -> Guest:
    if "name" not in row:
        raise LabError("topology: a guest needs a name")
    return Guest(
        name=str(row["name"]),
        machine=str(row.get("machine", "q35")),
        memory_mib=int(row.get("memory_mib", 256)),
        running=bool(row.get("running", True)),
        persistent=bool(row.get("persistent", True)),
        cmdline=str(row.get("cmdline", "")),
    )


def _known(table: str, row: dict[str, Any]) -> dict[str, Any]:
    unknown = set(row) - _KEYS_OF_TABLE[table]
    if unknown:
        raise LabError(f"topology: {table} has no key {min(unknown)!r}")
    return row


def _refuse_duplicates(names: list[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise LabError(f"topology: {what} {name!r} appears twice")
