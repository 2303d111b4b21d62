"""A card in front of all others renumbers the buses between two boots; no VM starts with somebody else's device.

Boots the lab twice, from outside: `HOSTDEVD_BOOTS=1 pytest tests/boots/test_guard_boots.py`. No guest runs in it, and
in the second boot no hostdevd either: libvirt starts VMs before it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TOPOLOGY = REPOSITORY / "deploy/lab/topology.toml"

pytestmark = [
    pytest.mark.skipif(not os.environ.get("HOSTDEVD_BOOTS"), reason="boots the lab twice; HOSTDEVD_BOOTS=1 does"),
    pytest.mark.timeout(1500),
]

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

START = """
set -e
now=$(lab-topology nic_single address | tr -d '"')
echo "is at $now"
! virsh start guarded 2>&1 || echo STARTED
old=$(cut -d: -f2 /var/lib/hostdevd/was) new=$(echo "$now" | cut -d: -f2)
virsh dumpxml --inactive guarded | sed "s/bus='0x$old'/bus='0x$new'/" >/run/moved.xml
/etc/libvirt/hooks/qemu.d/hostdevd guarded prepare begin - </run/moved.xml && echo PASSES WHERE IT IS NOW
"""


def boot(state: Path, topology: Path, script: str) -> str:
    command = [str(REPOSITORY / "deploy/lab/run"), "--quiet", "--boot-only-host", "--state", str(state)]
    command += ["--topology", str(topology), "--timeout", "300", "--", "sh", "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_extra_card_in_front(tmp_path: Path) -> None:
    renumbered = tmp_path / "renumbered.toml"
    renumbered.write_text(TOPOLOGY.read_text() + EXTRA)
    state = tmp_path / "state"
    state.mkdir()
    before = boot(state, TOPOLOGY, ASSIGN)
    after = boot(state, renumbered, START)
    was = before.partition("was at ")[2].split()[0]
    now = after.partition("is at ")[2].split()[0]
    assert was != now, "the extra card moved nothing"
    assert f"{was} is not the device that was assigned" in after
    assert f"the assigned one is at {now}" in after
    assert "STARTED" not in after
    assert "PASSES WHERE IT IS NOW" in after
