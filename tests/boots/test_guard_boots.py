"""A configured device over reboots: nobody else's is started in its place, and it follows its VM by itself.

In the first boot hostdevd assigns a card to a shut-off VM. In the second another card is in front of all, so that the
buses are numbered anew: libvirt starts VMs before hostdevd, and the hook refuses; then hostdevd writes the new
address. In the third nothing moved, and the VM starts with its card without hostdevd.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from boots.lab_boot import TOPOLOGY, run_in_boot

pytestmark = pytest.mark.timeout(1800)

EXTRA = """
[[device]]
role = "extra"
driver = "e1000e"
root_port = "0x1"
mac = "52:54:00:1a:b0:ee"
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
for try in $(seq 60); do
    .venv/bin/hostdevctl attach guarded "$nic" --scope config --yes && break
    sleep 1
done
for try in $(seq 30); do grep -q ua-hostdev /var/lib/hostdevd/guard.json && break; sleep 1; done
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
for try in $(seq 60); do virsh dumpxml --inactive guarded | grep -A1 "<source>" | grep -q "$bus" && break; sleep 1; done
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
for try in $(seq 60); do .venv/bin/hostdevctl assignments 2>/dev/null | grep -q "live" && break; sleep 1; done
.venv/bin/hostdevctl assignments
virsh destroy guarded
name=$(.venv/bin/hostdevctl -o name assignments)
.venv/bin/hostdevctl detach "$name"
echo "given back to $(basename "$(readlink "/sys/bus/pci/devices/$now/driver")")"
kill $server
wait $server
"""


def test_a_configured_card_over_reboots(tmp_path: Path) -> None:
    renumbered = tmp_path / "renumbered.toml"
    renumbered.write_text(TOPOLOGY.read_text() + EXTRA)
    state = tmp_path / "state"
    state.mkdir()
    before = run_in_boot(state, TOPOLOGY, "sh", "-c", ASSIGN)
    moved = run_in_boot(state, renumbered, "sh", "-c", MOVED)
    was = before.partition("was at ")[2].split()[0]
    now = moved.partition("is at ")[2].split()[0]
    assert was != now, "the extra card moved nothing"
    assert f"{was} is not the device that was assigned" in moved
    assert f"the assigned one is at {now}" in moved
    assert "STARTED WITH ANOTHER" not in moved
    assert "driver vfio-pci" in moved
    again = run_in_boot(state, renumbered, "sh", "-c", AGAIN)
    assert "driver vfio-pci" in again
    assert "given back to e1000e" in again
