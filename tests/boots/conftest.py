"""The boots that the tests of this directory look at: one machine, one state, four times switched on.

As it is; with cards in front of all others, so that buses and SCSI hosts are numbered anew; so once more; as it was
with the IOMMU off. In each of the first three something is done with a VM that has a card in its configuration.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from boots.lab_boot import TOPOLOGY, Boot, boot, run_in_boot

# A card in a slot before all others shifts the PCI bus numbers; a USB controller and a SCSI host on the first bus
# are found before those behind ports and take their numbers.
CARDS_IN_FRONT = """
[[device]]
role = "extra_nic"
driver = "e1000e"
root_port = "0x1"
mac = "52:54:00:1a:b0:e0"

[[device]]
role = "extra_usb"
driver = "qemu-xhci"
bus = "pcie.0"
addr = "0x16"

[[device]]
role = "extra_scsi"
driver = "virtio-scsi-pci"
bus = "pcie.0"
addr = "0x17"

[[device]]
role = "extra_disk"
driver = "scsi-hd"
bus = "extra_scsi.0"
serial = "lab-extra"
disk = { size_mib = 8 }

"""
VM = (
    "<domain type='qemu'><name>guarded</name><memory unit='MiB'>64</memory>"
    "<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
)

ASSIGN = f"""
set -e
echo "{VM}" >/run/guarded.xml
virsh define /run/guarded.xml
.venv/bin/hostdevd serve &
server=$!
nic=$(lab-topology nic_single nodedev | tr -d '"')
for try in $(seq 120); do
    .venv/bin/hostdevctl attach guarded "$nic" --scope config --yes && break
    sleep 1
done
for try in $(seq 120); do grep -q ua-hostdev /var/lib/hostdevd/guard.json && break; sleep 1; done
kill $server
wait $server
deploy/hooks/install
virsh dumpxml --inactive guarded | grep -q ua-hostdev
lab-topology nic_single address | tr -d '"' >/var/lib/hostdevd/was
echo "was at $(cat /var/lib/hostdevd/was)"
"""

MOVED = """
set -e
now=$(lab-topology nic_single address | tr -d '"')
deploy/hooks/install
echo "is at $now"
virsh start guarded 2>&1 && echo STARTED WITH ANOTHER
.venv/bin/hostdevd serve &
server=$!
bus="bus='0x$(echo "$now" | cut -d: -f2)'"
for try in $(seq 120); do
    virsh dumpxml --inactive guarded | grep -A1 "<source>" | grep -q "$bus" && break
    sleep 1
done
virsh start guarded
echo "driver $(basename "$(readlink "/sys/bus/pci/devices/$now/driver")")"
.venv/bin/hostdevctl holders --vm guarded
virsh destroy guarded
kill $server
wait $server
"""

AGAIN = """
set -e
now=$(lab-topology nic_single address | tr -d '"')
deploy/hooks/install
virsh start guarded
echo "driver $(basename "$(readlink "/sys/bus/pci/devices/$now/driver")")"
.venv/bin/hostdevd serve &
server=$!
for try in $(seq 120); do .venv/bin/hostdevctl assignments 2>/dev/null | grep -q "live" && break; sleep 1; done
.venv/bin/hostdevctl assignments
virsh destroy guarded
name=$(.venv/bin/hostdevctl -o name assignments)
.venv/bin/hostdevctl detach "$name"
echo "given back to $(basename "$(readlink "/sys/bus/pci/devices/$now/driver")")"
kill $server
wait $server
"""


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("boots")


@pytest.fixture(scope="session")
def first(directory: Path) -> Boot:
    return boot(directory, "first", after=ASSIGN)


@pytest.fixture(scope="session")
def with_cards_in_front(directory: Path) -> Path:
    before, first_row, after = TOPOLOGY.read_text().partition("[[device]]")
    topology = directory / "moved.toml"
    topology.write_text(before + CARDS_IN_FRONT + first_row + after)
    return topology


@pytest.fixture(scope="session")
def moved(directory: Path, first: Boot, with_cards_in_front: Path) -> Boot:
    assert first.devices
    return boot(directory, "moved", topology=with_cards_in_front, before=MOVED)


@pytest.fixture(scope="session")
def again(directory: Path, moved: Boot, with_cards_in_front: Path) -> str:
    """What its script printed: there is nothing new to list."""
    assert moved.devices
    return run_in_boot(directory, AGAIN, topology=with_cards_in_front)


@pytest.fixture(scope="session")
def without_iommu(directory: Path, again: str) -> Boot:
    assert again
    return boot(directory, "without_iommu", "--iommu", "off")
