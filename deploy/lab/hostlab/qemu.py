"""Topology to QEMU arguments: a pure function, so that it can be tested without QEMU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .topology import Device, PropertyValue, Topology

_PORT_DRIVERS = frozenset({"pcie-root-port", "xio3130-downstream"})
AGENT_PORT = 1024
LAB_ADDRESS = "10.0.2.15"


@dataclass(frozen=True, slots=True)
class Boot:
    """Where one boot's files are, and the ports of the outer machine it may use."""

    kernel: Path
    initramfs: Path
    config_dir: Path
    output_dir: Path
    capabilities_dir: Path
    guests_dir: Path
    disk_dir: Path
    state_disk: Path
    qmp_socket: Path
    console_log: Path
    agent_port: int
    server_port: int | None
    cpus: int
    iommu: bool
    root: Path = Path("/")


def option(driver: str, properties: list[tuple[str, PropertyValue]]) -> str:
    """One ``driver,key=value`` argument. A comma in a value is doubled, as QEMU wants it."""
    parts = [driver]
    for key, value in properties:
        text = ("on" if value else "off") if isinstance(value, bool) else str(value)
        parts.append(f"{key}={text.replace(',', ',,')}")
    return ",".join(parts)


def device_arguments(topology: Topology, disk_dir: Path) -> list[str]:
    """``-blockdev`` and ``-device`` arguments of the topology's rows, in their order."""
    arguments: list[str] = []
    chassis = 0
    for device in topology.devices:
        if device.disk is not None:
            arguments += ["-blockdev", _blockdev(device.role, disk_dir)]
        if not device.plugged:
            continue
        properties: list[tuple[str, PropertyValue]] = [("id", device.role)]
        if device.root_port is not None:
            chassis += 1
            port: list[tuple[str, PropertyValue]] = [
                ("id", f"port_{device.role}"),
                ("bus", "pcie.0"),
                ("addr", device.root_port),
                ("chassis", chassis),
            ]
            arguments += ["-device", option("pcie-root-port", port)]
            properties.append(("bus", f"port_{device.role}"))
        properties += device.properties
        if device.driver in _PORT_DRIVERS and not device.get("chassis"):
            chassis += 1
            properties.append(("chassis", chassis))
        if device.disk is not None:
            properties.append(("drive", device.role))
        arguments += ["-device", option(device.driver, properties)]
    return arguments


def disk_image(device: Device, disk_dir: Path) -> Path:
    """The image file of a device that has a disk."""
    return disk_dir / f"{device.role}.img"


def arguments(topology: Topology, boot: Boot, *, verbose: bool = False) -> list[str]:
    """The whole command line after the program's name."""
    cmdline = "console=ttyS0 panic=-1 net.ifnames=0 mitigations=off random.trust_cpu=on"
    cmdline += " intel_iommu=on" if boot.iommu else " intel_iommu=off"
    cmdline += "" if verbose else " quiet loglevel=4"
    result = ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
    result += ["-machine", "q35,kernel-irqchip=split", "-accel", "tcg,thread=multi"]
    # Five-level page tables and virtual GIF only give the nested emulation more to do.
    result += ["-cpu", "max,+svm,-la57,-vgif", "-smp", str(boot.cpus), "-m", f"{topology.memory_mib}M"]
    result += ["-uuid", "6c616221-0000-4000-8000-686f73746465", "-name", "hostdevd-lab"]
    result += ["-kernel", str(boot.kernel), "-initrd", str(boot.initramfs), "-append", cmdline]
    if boot.iommu:
        result += ["-device", "intel-iommu,intremap=on,caching-mode=on,device-iotlb=on"]
    return result + _own_devices(boot) + device_arguments(topology, boot.disk_dir)


def _own_devices(boot: Boot) -> list[str]:
    """What the lab itself needs: console, monitor, root file system, network, state disk."""
    forwards = f"hostfwd=tcp:127.0.0.1:{boot.agent_port}-{LAB_ADDRESS}:{AGENT_PORT}"
    if boot.server_port is not None:
        forwards += f",hostfwd=tcp:127.0.0.1:{boot.server_port}-{LAB_ADDRESS}:{boot.server_port}"
    qmp = str(boot.qmp_socket)
    result = ["-chardev", option("file", [("id", "console"), ("path", str(boot.console_log))])]
    result += ["-serial", "chardev:console"]
    # The monitor listens on a socket and a virtio-serial port is its client, so that the
    # lab can plug and unplug its own hardware without a program in between.
    result += ["-chardev", option("socket", [("id", "monitor"), ("path", qmp), ("server", True), ("wait", False)])]
    result += ["-mon", "chardev=monitor,mode=control"]
    result += ["-chardev", option("socket", [("id", "qmp"), ("path", qmp)])]
    result += ["-device", "virtio-serial-pci,id=lab_serial,bus=pcie.0,addr=0x18"]
    result += ["-device", "virtserialport,bus=lab_serial.0,chardev=qmp,name=lab.qmp"]
    result += ["-audiodev", "none,id=lab_audio"]
    result += ["-netdev", f"user,id=lab_net,ipv6=off,{forwards}"]
    result += ["-device", "virtio-net-pci,id=lab_nic,netdev=lab_net,bus=pcie.0,addr=0x19,mac=52:54:00:1a:b0:ff"]
    result += ["-blockdev", _blockdev_of("lab_state", boot.state_disk)]
    result += ["-device", "virtio-blk-pci,id=lab_state,drive=lab_state,serial=lab-state,bus=pcie.0,addr=0x1a"]
    result += ["-device", "virtio-rng-pci,id=lab_rng,bus=pcie.0,addr=0x1b"]
    shares = [
        ("root", boot.root, True),
        ("config", boot.config_dir, True),
        ("output", boot.output_dir, False),
        ("capabilities", boot.capabilities_dir, False),
        ("guests", boot.guests_dir, False),
    ]
    for slot, (tag, path, readonly) in enumerate(shares):
        result += [
            "-fsdev",
            option(
                "local",
                [
                    ("id", tag),
                    ("path", str(path)),
                    ("security_model", "none"),
                    ("readonly", readonly),
                    ("multidevs", "remap"),
                ],
            ),
        ]
        result += [
            "-device",
            f"virtio-9p-pci,id=lab_{tag},fsdev={tag},mount_tag={tag},bus=pcie.0,addr=0x1c.{slot}"
            + (",multifunction=on" if slot == 0 else ""),
        ]
    return result


def _blockdev(role: str, disk_dir: Path) -> str:
    return _blockdev_of(role, disk_dir / f"{role}.img")


def _blockdev_of(node: str, path: Path) -> str:
    # -blockdev and not -drive: a drive is deleted with its device, a node stays for a re-plug.
    return option(
        "driver=raw",
        [
            ("node-name", node),
            ("file.driver", "file"),
            ("file.filename", str(path)),
            ("cache.no-flush", True),
            ("discard", "unmap"),
        ],
    )
