"""Mediated devices through a real libvirtd and its own node device driver; the mdevctl only keeps definitions.

No kernel that distributions ship makes mediated devices without hardware, so starting one always fails here: what is
made of it before, and how it is undone, is what is looked at.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hostdevd.core.ports import HypervisorError, MdevSpec, NoSuchObject
from hostdevd.virt.denials import Denials
from hostdevd.virt.xml.mdev import build_mdev
from rpc.conftest import Connect, Daemon, private_daemon

pytest.importorskip("libvirt")
calls = pytest.importorskip("hostdevd.virt.calls")
mdevs = pytest.importorskip("hostdevd.virt.mdevs")

UUID = "00000000-0000-4000-8000-00000000cafe"
FAKE = Path(__file__).with_name("mdevctl.py")


@dataclass
class Node:
    """A node device connection of the daemon's, and what its mdevctl was asked."""

    link: Any
    spec: MdevSpec
    state: Path

    def asked(self) -> list[str]:
        """The verbs since the last look, without those that only list."""
        file = self.state / "asked"
        verbs = [line.split()[0] for line in file.read_text().splitlines() if not line.startswith("list")]
        file.write_text("")
        return verbs

    def defined(self) -> dict[str, Any]:
        """The definitions by UUID."""
        file = self.state / "defined.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return {uuid: one["config"] for uuid, one in found.items()}


@pytest.fixture
def node(libvirtd: str) -> Iterator[Node]:
    with private_daemon(libvirtd, prepare) as daemon:
        uri = f"nodedev+unix:///session?socket={daemon.socket}"
        link = calls.Link.open(uri, calls.CallCounter(), Denials())
        try:
            names = link.call(link.handle.listDevices, "pci", 0)
            if not names:
                pytest.skip("this machine has no PCI function to be the parent")
            spec = MdevSpec(min(names), "vendor-1", UUID, (("frl", "1"), ("nvidia/params", "a=b")))
            yield Node(link, spec, daemon.root / "bin/state")
        finally:
            link.close()


def prepare(root: Path) -> None:
    """Put the mdevctl where the daemon looks first."""
    state = root / "bin/state"
    state.mkdir(parents=True)
    program = root / "bin/mdevctl"
    shutil.copy(FAKE, program)
    program.chmod(0o755)
    (state / "asked").touch()
    if os.geteuid() == 0:  # the daemon is nobody's then
        for path in (state, state / "asked"):
            path.chmod(path.stat().st_mode | stat.S_IRWXO)


def test_a_transient_one_that_cannot_start_says_why_and_leaves_nothing(node: Node) -> None:
    with pytest.raises(HypervisorError, match="the kernel has no such device"):
        mdevs.create_mdev(node.spec, node.link)
    assert node.asked() == ["start"]
    assert node.defined() == {}


def test_a_definition_of_one_that_cannot_start_is_taken_back(node: Node) -> None:
    with pytest.raises(HypervisorError, match="the kernel has no such device"):
        mdevs.create_mdev(replace(node.spec, persistent=True), node.link)
    assert node.asked() == ["define", "modify", "start", "undefine"]
    assert node.defined() == {}


def test_one_that_is_defined_already_is_only_started_and_stays_defined(node: Node) -> None:
    node.link.call(node.link.handle.nodeDeviceDefineXML, build_mdev(node.spec), 0)
    node.asked()
    with pytest.raises(HypervisorError, match="the kernel has no such device"):
        mdevs.create_mdev(replace(node.spec, persistent=True), node.link)
    assert node.asked() == ["modify", "start"]
    (config,) = node.defined().values()
    assert (config["mdev_type"], config["start"]) == ("vendor-1", "auto")
    assert config["attrs"] == [{"frl": "1"}, {"nvidia/params": "a=b"}]


def test_a_definition_alone_is_removed(node: Node) -> None:
    device = node.link.call(node.link.handle.nodeDeviceDefineXML, build_mdev(node.spec), 0)
    name = node.link.call(device.name)
    assert name.startswith("mdev_" + UUID.replace("-", "_"))
    node.asked()
    mdevs.delete_mdev(name, node.link)
    assert node.asked() == ["undefine"]
    assert node.defined() == {}
    with pytest.raises(NoSuchObject):  # libvirt itself hears of it a moment later
        mdevs.delete_mdev(name.replace("cafe", "beef"), node.link)


async def test_a_driver_without_mediated_devices_refuses_in_its_own_words(daemon: Daemon, connect: Connect) -> None:
    async with connect(daemon.uri()) as (port, _):
        (parent, *_) = sorted(await port.node_device_names())
        with pytest.raises(HypervisorError) as caught:
            await port.create_mdev(MdevSpec(parent, "vendor-1", UUID))
        assert caught.value.text
