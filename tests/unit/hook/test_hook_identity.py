"""The hook's words for who a device is are the service's own: each key that the service makes, the hook finds again."""

from __future__ import annotations

import pytest

from hostdevd.core.addresses import PciAddress, ScsiAddress
from hostdevd.core.graph import DeviceGraph
from hostdevd.core.identity import identity_keys
from hostdevd.core.model import Facts, NodeDevice, PciFacts, ScsiFacts
from hostdevd.host.identity import identity_facts
from unit.hook.guarded import ALIAS, GuardedHost, domain, pci, scsi

ROOT = "/sys/devices/pci0000:00"


def keys(host: GuardedHost, *nodes: NodeDevice) -> list[str]:
    """The service's keys of the first node."""
    graph = DeviceGraph(nodes)
    return list(identity_keys(graph, nodes[0], lambda node: identity_facts(host.tree, node)))[:-1]


def node(path: str, facts: Facts) -> NodeDevice:
    return NodeDevice(path.rpartition("/")[2], "pci" if isinstance(facts, PciFacts) else "scsi", path=path, facts=facts)


def function(address: str, **links: object) -> PciFacts:
    told = {"vpd_serial": "S|1", **links}
    return PciFacts(PciAddress.parse(address), 0x020000, 0x8086, 0x10D3, **told)  # type: ignore[arg-type]


def add_function(host: GuardedHost, path: str, subsystem: bool = True) -> None:  # noqa: FBT001, FBT002
    ids = {"vendor": "0x8086", "device": "0x10d3", "class": "0x020000"}
    own = {"subsystem_vendor": "0x1af4", "subsystem_device": "0x1100"} if subsystem else {}
    for name, text in {**ids, **own}.items():
        host.write(f"{path}/{name}", text + "\n")
    host.link(f"/sys/bus/pci/devices/{path.rpartition('/')[2]}", path)


@pytest.mark.parametrize("acpi", [True, False])
@pytest.mark.parametrize(
    "path", ["0000:00:04.0", "0000:00:1c.0/0000:01:00.1", "0000:00:1c.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0"]
)
@pytest.mark.parametrize("subsystem", [True, False])
def test_a_function(host: GuardedHost, path: str, acpi: bool, subsystem: bool) -> None:  # noqa: FBT001
    if acpi:
        host.write("/sys/devices/LNXSYSTM:00/PNP0A08:00/path", "\\_SB_.PCI0\n")
        host.link(f"{ROOT}/firmware_node", "/sys/devices/LNXSYSTM:00/PNP0A08:00")
    at = f"{ROOT}/{path}"
    add_function(host, at, subsystem)
    address = path.rpartition("/")[2]
    host.guard({ALIAS: keys(host, node(at, function(address)))})
    assert host.start(domain(pci(address))).passes()
    assert host.start(domain(pci())).refuses("another device is there now", f"at {address}")


def test_a_virtual_function(host: GuardedHost) -> None:
    paths = [f"{ROOT}/0000:00:1c.0/0000:{bus}" for bus in ("01:00.0", "01:10.0", "02:00.0")]
    for path in paths:
        add_function(host, path)
    physical = PciAddress.parse("0000:01:00.0")
    vfs = tuple(PciAddress.parse(path.rpartition("/")[2]) for path in paths[1:])
    for index, path in enumerate(paths[1:]):
        host.link(f"{path}/physfn", paths[0])
        host.link(f"{paths[0]}/virtfn{index}", path)
    parent = node(paths[0], function(str(physical), virt_functions=vfs))
    virtual = [node(path, function(str(at), phys_function=physical)) for path, at in zip(paths[1:], vfs, strict=True)]
    made = list(identity_keys(DeviceGraph([parent, *virtual]), virtual[1], lambda one: identity_facts(host.tree, one)))
    host.guard({ALIAS: made})
    assert host.start(domain(pci(str(vfs[1])))).passes()
    assert host.start(domain(pci(str(vfs[0])))).refuses(f"at {vfs[1]}")


@pytest.mark.parametrize(
    "path",
    [
        "0000:00:05.0/virtio1/host2/target2:0:1/2:0:1:3",
        "0000:00:05.0/ata4/host2/target2:0:1/2:0:1:3",
        "0000:00:05.0/host2/port-2:0/end_device-2:0/target2:0:1/2:0:1:3",
        "0000:00:05.0/host2/rport-2:0-1/target2:0:1/2:0:1:3",
    ],
)
@pytest.mark.parametrize("name", ["naa.5000c50015ea71aa", "t10.ATA     QEMU HARDDISK\u00e9", "serial", ""])
def test_a_logical_unit(host: GuardedHost, path: str, name: str) -> None:
    at = f"{ROOT}/{path}"
    host.write(f"{ROOT}/0000:00:05.0/ata4/ata_port/ata4/port_no", "2\n")
    host.write(f"{ROOT}/0000:00:05.0/host2/rport-2:0-1/fc_remote_ports/rport-2:0-1/port_name", "0x21000024ff\n")
    host.directory(f"{ROOT}/0000:00:05.0/host7")
    if name == "serial":
        host.write(f"{at}/vpd_pg80", b"\x00\x80\x00\x06LAB-1\x07")
    elif name:
        host.write(f"{at}/wwid", f"{name}\n")
    else:
        host.directory(at)
    host.link("/sys/bus/scsi/devices/2:0:1:3", at)
    made = keys(host, node(at, ScsiFacts(ScsiAddress(2, 0, 1, 3))))
    host.guard({ALIAS: made})
    assert host.start(domain(scsi("2:0:1:3"))).passes()
    host.guard({ALIAS: [key.replace("scsi|", "scsi|another") for key in made]})
    assert host.start(domain(scsi("2:0:1:3"))).refuses("another device is there now")
