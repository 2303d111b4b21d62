"""What the hook does when it is asked something else, or cannot know: VMs without host devices always start."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from unit.hook.guarded import ALIAS, HOOK, NIC_KEY, GuardedHost, disk, domain, pci

PLAIN = domain(disk("/dev/vg0/guest"), "<interface type='network'><source network='default'/></interface>")


@pytest.mark.parametrize(
    "operation",
    [
        ("start", "begin"),
        ("started", "begin"),
        ("stopped", "end"),
        ("release", "end"),
        ("migrate", "begin"),
        ("restore", "begin"),
        ("reconnect", "begin"),
        ("attach", "begin"),
        ("prepare", "end"),
    ],
)
def test_only_the_beginning_of_a_start_is_judged(host: GuardedHost, operation: tuple[str, str]) -> None:
    host.guard({ALIAS: "pci|a|1.0|8086:1:2:3|"})
    assert host.start(domain(pci()), *operation).passes()


def test_a_file_that_is_missing(host: GuardedHost) -> None:
    assert host.start(PLAIN).passes()
    assert host.start(domain(pci(alias=""))).passes()  # nobody promised anything of it
    assert host.start(domain(pci())).refuses("guard.json", "No such file", "start hostdevd")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"version": 1}', '{"version": 1, "boot_id": "", "assigned": []}', "\0\xff garbage"],
)
def test_a_file_that_is_garbage(host: GuardedHost, content: str) -> None:
    host.write("/var/lib/hostdevd/guard.json", content.encode("latin-1"))
    assert host.start(PLAIN).passes()
    assert host.start(domain(pci(alias=""))).passes()
    assert host.start(domain(pci())).refuses("is damaged", "start hostdevd")


def test_a_file_of_a_later_version(host: GuardedHost) -> None:
    host.guard({ALIAS: NIC_KEY}, version=2)
    assert host.start(domain(pci())).refuses("version 2")


def test_a_state_directory_of_the_operators_choice(host: GuardedHost) -> None:
    host.guard({ALIAS: NIC_KEY})
    host.at("/var/lib/hostdevd/guard.json").rename(host.at("/var/elsewhere.json"))
    assert host.start(domain(pci())).refuses("No such file")
    host.write("/etc/hostdevd/guard.conf", "# where\nfile = /var/elsewhere.json\n")
    assert host.start(domain(pci())).passes()


@pytest.mark.parametrize(
    "xml",
    [
        b"",
        b"<domain",
        b"\xff\xfe\x00",
        b"<domain><devices/></domain>",
        b"<domain><name>hostdevd</name></domain>",
    ],
)
def test_broken_or_empty_xml_without_a_word_of_host_devices(host: GuardedHost, xml: bytes) -> None:
    assert host.start(xml).passes()


@pytest.mark.parametrize(
    "xml",
    [
        "<domain><devices><hostdev>",
        "<!DOCTYPE domain [<!ENTITY a 'b'>]>" + domain(pci()),
        domain(pci().replace("0x03", "slot three")),
    ],
)
def test_broken_xml_that_names_host_devices(host: GuardedHost, xml: str) -> None:
    host.guard({ALIAS: NIC_KEY})
    assert host.start(xml).refuses("the start guard could not look")


@pytest.mark.parametrize(
    "element",
    [
        "<hostdev mode='capabilities' type='misc'><source><char>/dev/input/event3</char></source></hostdev>",
        "<hostdev mode='subsystem' type='scsi_host'><source protocol='vhost' wwpn='naa.5123456789abcde0'/></hostdev>",
        "<hostdev mode='subsystem' type='scsi'><source protocol='iscsi' name='iqn.x/0'/></hostdev>",
        "<hostdev mode='subsystem' type='pci'/>",
        "<hostdev/>",
    ],
)
def test_host_devices_of_which_nothing_is_known_are_libvirts_business(host: GuardedHost, element: str) -> None:
    assert host.start(domain(element)).passes()


def test_without_python_only_vms_with_host_devices_are_refused(tmp_path: Path) -> None:
    hook = tmp_path / "hostdevd"
    hook.write_text(HOOK.read_text().replace("/usr/bin/python3", "/nowhere/python3").replace("v python3", "v nowhere"))
    for xml, status in ((PLAIN, 0), (domain(pci()), 1)):
        command = ["sh", str(hook), "spare", "prepare", "begin", "-"]
        done = subprocess.run(command, input=xml, capture_output=True, check=False, text=True)
        assert (done.returncode, "needs python3" in done.stderr) == (status, bool(status))


def test_it_is_one_file_for_any_python_from_3_9_and_imports_nothing_else() -> None:
    tree = ast.parse(HOOK.read_text(), feature_version=(3, 9))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in found}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names
