"""When a device comes or goes, what its neighbours' XML says of it is true at once, and only they are read again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from lxml import etree

from hostdevd.core.graph import DeviceGraph
from hostdevd.core.history import ChangeSource
from hostdevd.core.kin import outdated
from hostdevd.core.model import NodeDevice, PciFacts
from unit.core.made import mdev, pci
from unit.core.rig import Machine, machine, until

PF = pci("0b:00.0", vfs=("0b:00.1",))
VF = pci("0b:00.1", group=2, pf="0b:00.0")


@pytest.mark.parametrize(
    ("graph", "fresh", "names"),
    [
        pytest.param([pci("0b:00.0")], {VF.name: VF}, {PF.name}, id="a-vf-that-its-pf-does-not-list"),
        pytest.param([PF], {VF.name: VF}, set(), id="a-vf-that-its-pf-lists"),
        pytest.param([PF, VF], {VF.name: None}, {PF.name}, id="a-vf-that-is-gone"),
        pytest.param([PF, VF], {VF.name: None, PF.name: None}, set(), id="gone-with-its-pf"),
        pytest.param([PF, VF], {VF.name: None, PF.name: pci("0b:00.0")}, set(), id="gone-and-its-pf-was-read"),
        pytest.param([], {VF.name: VF, PF.name: pci("0b:00.0")}, {PF.name}, id="its-pf-was-read-before-it"),
        pytest.param(
            [pci("01:00.0", listed=("01:00.0",))],
            {"pci_0000_01_00_1": pci("01:00.1", listed=("01:00.0", "01:00.1"))},
            {"pci_0000_01_00_0"},
            id="a-new-member-of-a-group",
        ),
        pytest.param(
            [pci("01:00.0", listed=("01:00.0", "01:00.1")), pci("01:00.1", listed=("01:00.0", "01:00.1"))],
            {"pci_0000_01_00_1": None},
            {"pci_0000_01_00_0"},
            id="a-member-that-is-gone",
        ),
        pytest.param(
            [pci("01:00.0", listed=("01:00.0", "01:00.1")), pci("01:00.1", listed=("01:00.0", "01:00.1"))],
            {"pci_0000_01_00_1": pci("01:00.1", group=7, listed=("01:00.1",))},
            {"pci_0000_01_00_0"},
            id="a-member-that-changed-groups",
        ),
        pytest.param([pci("01:00.0")], {"m": mdev("m", "pci_0000_01_00_0")}, {"pci_0000_01_00_0"}, id="a-new-mdev"),
        pytest.param(
            [pci("01:00.0"), mdev("m", "pci_0000_01_00_0")],
            {"m": mdev("m", "pci_0000_01_00_0")},
            set(),
            id="an-mdev-that-was-there",
        ),
        pytest.param([pci("01:00.0"), mdev("m", "gone")], {"m": None}, set(), id="a-parent-that-is-not-listed"),
    ],
)
def test_who_must_be_read_again(graph: list[NodeDevice], fresh: dict[str, NodeDevice | None], names: set[str]) -> None:
    assert outdated(DeviceGraph(graph), fresh) == names


def reasons(on: Machine, name: str) -> list[str]:
    return [reason.code for reason in on.core.store.devices[name].eligibility.reasons]


def functions(on: Machine, name: str) -> list[str]:
    facts = on.core.store.devices[name].node.facts
    assert isinstance(facts, PciFacts)
    return [str(address) for address in facts.virt_functions]


async def test_a_pf_knows_its_vfs_as_they_come_and_go(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        pf, vfs = on.name("nvme_sriov"), ["pci_0000_0b_00_1", "pci_0000_0b_00_2"]
        uids = [on.core.store.devices[name].uid for name in vfs]
        for name in vfs:
            on.sim.controls.unplug_device(name)
        await until(on, lambda: not functions(on, pf))
        assert "HAS_CHILD_FUNCTIONS" not in reasons(on, pf)
        before = on.sim.hypervisor.call_counts()
        on.sim.controls.replug(vfs[0])
        await until(on, lambda: vfs[0] in on.core.store.devices)
        assert "HAS_CHILD_FUNCTIONS" in reasons(on, pf)
        assert [on.core.store.devices[vfs[0]].uid] == uids[:1]  # its place among the VFs is known at once
        assert Counter(on.sim.hypervisor.call_counts()) - Counter(before) == {"node_device": 2}


async def test_a_group_mate_that_is_pulled_out_is_not_held_against_the_rest(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        one, other = on.name("dual_0"), on.name("dual_1")
        on.sim.controls.unplug_device(other)
        await until(on, lambda: other not in on.core.store.devices)
        assert reasons(on, one) == []
        on.sim.controls.replug(other)
        await until(on, lambda: other in on.core.store.devices)
        facts = on.core.store.devices[one].node.facts
        assert isinstance(facts, PciFacts)
        assert len(facts.iommu_addresses) == 2


def numbered(on: Machine, count: int) -> list[str]:
    """Documents of so many functions, each alone in its group, like `nic_single`."""
    made = []
    for number in range(count):
        root = etree.fromstring(on.sim.world.kernel.devices[on.name("nic_single")].xml.encode())
        bus, slot = 0x80 + number // 32, number % 32
        text: dict[str, str] = {
            "name": f"pci_0000_{bus:02x}_{slot:02x}_0",
            "path": f"/sys/devices/pci0000:80/0000:{bus:02x}:{slot:02x}.0",
            "capability/bus": str(bus),
            "capability/slot": str(slot),
        }
        for place, value in text.items():
            found = root.find(place)
            assert found is not None
            found.text = value
        group = root.find("capability/iommuGroup")
        assert group is not None
        group.set("number", str(1000 + number))
        for address in group:
            address.set("bus", f"0x{bus:02x}")
            address.set("slot", f"0x{slot:02x}")
        made.append(etree.tostring(root, encoding="unicode"))
    return made


@pytest.mark.parametrize("count", [256])
async def test_a_storm_is_one_change_or_a_few(tmp_path: Path, count: int) -> None:
    async with machine(tmp_path) as on:
        documents = numbered(on, count)
        store = on.core.store
        revision, known = store.revision, len(store.devices)
        before = on.sim.hypervisor.call_counts()
        names = [on.sim.controls.plug_device(document) for document in documents]
        await until(on, lambda: len(store.devices) == known + count)
        assert all(store.devices[name].eligibility.eligible for name in names)
        assert store.revision - revision <= 3
        assert Counter(on.sim.hypervisor.call_counts()) - Counter(before) == {"node_device": count}
        for name in names:
            on.sim.controls.unplug_device(name)
        await until(on, lambda: len(store.devices) == known)
        assert store.revision - revision <= 6


async def test_what_libvirt_did_not_tell_is_found_without_reading_all(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        store, name = on.core.store, on.name("nic_single")
        quiet: Callable[..., None] = lambda *_: None  # noqa: E731  an event that is lost
        kernel = on.sim.world.kernel
        emit, kernel._emit = kernel._emit, quiet
        on.sim.controls.unplug_device(name)
        kernel._emit = emit
        assert name in store.devices
        before = on.sim.hypervisor.call_counts()
        await on.core.sync._read_unknown_devices()
        assert name not in store.devices
        calls = Counter(on.sim.hypervisor.call_counts()) - Counter(before)
        assert calls["node_devices"] == 0
        assert calls["node_device"] <= 3


async def test_a_driver_bound_by_hand_shows_with_its_source(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        name = on.name("nic_single")
        revision, before = on.core.store.revision, on.sim.hypervisor.call_counts()
        on.sim.controls.set_driver(name, "vfio-pci", "vfio-pci")
        await until(on, lambda: on.core.store.devices[name].driver == "vfio-pci")
        changes = [change for batch in on.core.store.device_history.since(revision) for change in batch.changes]
        assert [change.source for change in changes if change.key == name] == [ChangeSource.EVENT]
        # Interfaces below it vanish, and each is read once to find it gone.
        calls = Counter(on.sim.hypervisor.call_counts()) - Counter(before)
        assert set(calls) <= {"node_device"}
