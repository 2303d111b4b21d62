"""The node file and the file beside it: what is honoured, and how faults are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostdevd.core.model import HolderVia, HostUse, HostUseKind, PciFacts, VmState
from hostdevd.sim.extras import read_extras
from hostdevd.sim.nodefile import read_node_file
from hostdevd.sim.simulation import Simulation, simulate
from unit.sim.rig import NIC, Rig, SteppedClock

DEVICE = """<device><name>pci_0000_01_00_0</name><parent>computer</parent><driver><name>e1000e</name></driver>
<capability type='pci'><class>0x020000</class><domain>0</domain><bus>1</bus><slot>0</slot><function>0</function>
<product id='0x10d3'/><vendor id='0x8086'/>
<iommuGroup number='1'><address domain='0' bus='1' slot='0' function='0'/></iommuGroup></capability></device>"""

DOMAIN = """<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>{test}<name>vm1</name>{uuid}
<memory>1024</memory><os><type>hvm</type></os><devices>{devices}</devices></domain>"""

HOSTDEV = """<hostdev mode='subsystem' type='pci' managed='yes'>
<source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev>"""


def _node(tmp_path: Path, *parts: str, toml: str = "") -> Path:
    path = tmp_path / "host.xml"
    path.write_text(f"<node>{''.join(parts)}</node>")
    if toml:
        path.with_name("host.xml.toml").write_text(toml)
    return path


def _domain(test: str = "", devices: str = "", uuid: str = "") -> str:
    return DOMAIN.format(test=test, devices=devices, uuid=uuid)


def _simulate(path: Path) -> Simulation:
    return simulate(SteppedClock(), path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("<node><device></node>", r"host\.xml:1: malformed XML"),
        ("<nodes/>", r"host\.xml:1: the root element is <nodes>, not <node>"),
        ("<!DOCTYPE node><node/>", "a DOCTYPE is refused"),
        ("<node>\n<device/></node>", r"host\.xml:2: the <device> has no <name>"),
        ("<node><device><name>a</name></device></node>", "device 'a' has no <capability>"),
        (f"<node>{DEVICE}{DEVICE}</node>", "two entries of device 'pci_0000_01_00_0'"),
        ("<node><domain/></node>", "the <domain> has no <name>"),
        (f"<node>{_domain('<test:runstate>9</test:runstate>')}</node>", "domain 'vm1': <test:runstate> is '9'"),
        (
            f"<node>{_domain('<test:runstate>5</test:runstate><test:transient/>')}</node>",
            "a transient domain cannot be shut off",
        ),
        (f"<node>{_domain(uuid='<uuid>none</uuid>')}</node>", "domain 'vm1': <uuid> is 'none', not a UUID"),
        ("<node><network/></node>", "the <network> has no <name>"),
        ("<node><network><name>n</name><uuid>x</uuid></network></node>", "network 'n': <uuid> is 'x', not a UUID"),
        ("<node><network><name>n</name></network><network><name>n</name></network></node>", "entries of network 'n'"),
    ],
)
def test_a_broken_node_file_is_refused_with_its_place(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "host.xml"
    path.write_text(content)
    with pytest.raises(ValueError, match=fault):
        _simulate(path)


def test_a_missing_node_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_node_file(tmp_path / "none.xml")


@pytest.mark.parametrize(
    ("toml", "fault"),
    [
        ("[host", "host.xml.toml: "),
        ("[hots]", "unknown key 'hots'"),
        ("[host]\niommuu = true", r"\[host\]: unknown key 'iommuu'"),
        ("[host]\niommu = 1", r"\[host\]: iommu is 1, not of type bool"),
        ('[guests.vm1]\nunplug = "maybe"', r"\[guests\] vm1: unplug is 'maybe', not one of immediate, delayed"),
        ('[guests.vm2]\nunplug = "never"', "names the domain 'vm2', which the node file does not have"),
        ('[uses]\nnone = [{ kind = "MOUNT" }]', "names the device 'none', which the node file does not have"),
        ('[uses]\npci_0000_01_00_0 = [{ kind = "MONT" }]', "kind is 'MONT', not one of MOUNT"),
        ("[[faults]]\nnth = 2", r"\[\[faults\]\]: call is missing"),
    ],
)
def test_a_broken_extras_file_is_refused_by_name(tmp_path: Path, toml: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        _simulate(_node(tmp_path, DEVICE, _domain(), toml=toml))


def test_without_extras_nothing_is_used(tmp_path: Path) -> None:
    assert read_extras(tmp_path / "none.toml").uses == {}


async def test_run_states_are_honoured(tmp_path: Path) -> None:
    for test, state, persistent in (
        ("", VmState.RUNNING, True),
        ("<test:runstate>3</test:runstate>", VmState.PAUSED, True),
        ("<test:runstate>5</test:runstate>", VmState.SHUT_OFF, True),
        ("<test:transient/>", VmState.RUNNING, False),
    ):
        sim = _simulate(_node(tmp_path, _domain(test)))
        (domain,) = await sim.hypervisor.domains()
        assert (domain.vm.state, domain.vm.persistent) == (state, persistent)
        assert (domain.live is not None, domain.config is not None) == (state.active, persistent)


async def test_a_running_domain_of_the_file_has_its_hostdev_bound(tmp_path: Path) -> None:
    sim = _simulate(_node(tmp_path, DEVICE, _domain(devices=HOSTDEV)))
    assert sim.host.driver(NIC).driver == "vfio-pci"
    (domain,) = await sim.hypervisor.domains()
    assert domain.live is not None
    assert [(entry.via, entry.source, entry.alias) for entry in domain.live.entries] == [
        (HolderVia.HOSTDEV, NIC, "hostdev0")
    ]
    sim.controls.destroy_domain("vm1")
    assert sim.host.driver(NIC).driver == "e1000e"


async def test_a_domain_without_uuid_has_the_same_one_every_time(tmp_path: Path) -> None:
    path = _node(tmp_path, _domain())
    first, second = [(await _simulate(path).hypervisor.domains())[0].vm.uuid for _ in range(2)]
    assert first == second


async def test_a_device_without_path_gets_one_so_that_its_use_can_be_told(tmp_path: Path) -> None:
    path = _node(tmp_path, DEVICE, toml='[uses]\npci_0000_01_00_0 = [{ kind = "VFIO_USER", detail = "dpdk" }]')
    sim = _simulate(path)
    device = await sim.hypervisor.node_device("pci_0000_01_00_0")
    assert device.path is not None
    assert (await sim.host.uses()).by_path == {device.path: (HostUse(HostUseKind.VFIO_USER, "dpdk"),)}


async def test_without_iommu_no_function_has_a_group(tmp_path: Path) -> None:
    sim = _simulate(_node(tmp_path, DEVICE, toml="[host]\niommu = false"))
    device = await sim.hypervisor.node_device("pci_0000_01_00_0")
    assert isinstance(device.facts, PciFacts)
    assert device.facts.iommu_group is None
    assert [check.status for check in await sim.host.checks() if check.code == "IOMMU"] == ["FAIL"]


def test_a_device_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "nic.xml").write_text(DEVICE)
    assert len(read_node_file(_node(tmp_path, "<device file='nic.xml'/>")).devices) == 1


async def test_the_built_in_host_has_every_role(rig: Rig) -> None:
    names = await rig.sim.hypervisor.node_device_names()
    assert set(rig.sim.roles.values()) <= names
    assert len(rig.sim.roles) == 30
    assert not [device.name for device in await rig.sim.hypervisor.node_devices() if device.conditions]
