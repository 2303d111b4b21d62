"""Domains, networks and capabilities as an enemy would write them: read or told as a gap, soon and in little memory.

Node devices have theirs in `test_nodedev_anything.py`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostdevd.core.model import DomainDef, Network
from hostdevd.virt.xml.capabilities import host_uuid
from hostdevd.virt.xml.domain import domain_def, entry_xml, is_running_xml, network_macs
from hostdevd.virt.xml.network import network
from hostdevd.virt.xml.nodedev import node_device

DATA = Path(__file__).parent / "data"
GOLDEN = {path.stem: path.read_text("utf-8") for path in sorted(DATA.glob("*.xml"))}
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)  # half surrogate pairs and controls too


def read_everything(xml: str) -> None:
    """Each reader on the text: none raises, whatever it is."""
    read = domain_def(xml)
    assert isinstance(read, DomainDef)
    assert not (read.gap and read.entries)
    for entry in read.entries:
        told = entry_xml(xml, entry)
        # What is sent to libvirt names what was meant, or is not sent.
        if told is not None:
            assert entry.source in {one.source for one in domain_def(_domain(told)).entries}
    assert all(isinstance(mac, str) for mac in network_macs(xml))
    assert is_running_xml(xml) in {True, False}
    assert isinstance(network(xml), Network | None)
    assert len(host_uuid(xml)) in {0, 36}
    assert node_device(xml, "given").name


def _domain(devices: str) -> str:
    return f"<domain><devices>{devices}</devices></domain>"


@settings(max_examples=150)
@given(name=st.sampled_from(sorted(GOLDEN)), start=st.integers(0), length=st.integers(0, 40), text=ANY_TEXT)
def test_no_damage_to_a_document_makes_reading_fail(name: str, start: int, length: int, text: str) -> None:
    xml = GOLDEN[name]
    start %= len(xml)
    read_everything(xml[:start] + text + xml[start + length :])


@settings(max_examples=60)
@given(name=st.sampled_from(sorted(GOLDEN)), other=st.sampled_from(sorted(GOLDEN)), at=st.integers(0))
def test_no_document_within_another_makes_reading_fail(name: str, other: str, at: int) -> None:
    xml = GOLDEN[name]
    places = [place for place, char in enumerate(xml) if char == "<"]
    at = places[at % len(places)]
    read_everything(xml[:at] + GOLDEN[other] + xml[at:])


@given(ANY_TEXT)
def test_no_text_makes_reading_fail(text: str) -> None:
    read_everything(text)


@given(st.binary(max_size=200))
def test_no_bytes_make_reading_fail(data: bytes) -> None:
    read_everything(data.decode("latin-1"))
    read_everything(data.decode("utf-8", "surrogateescape"))


def test_what_is_no_domain_is_a_gap_and_not_an_empty_domain() -> None:
    for xml in ("", "<domain>", "<!DOCTYPE domain><domain/>", "<network/>", _domain("<x>" * 1000 + "</x>" * 1000)):
        assert domain_def(xml).gap, xml[:40]
        assert is_running_xml(xml) or xml == "<network/>", "its guest may be there"
    assert domain_def("<domain/>") == DomainDef()


def test_more_devices_than_any_guest_has_are_a_gap() -> None:
    hostdev = "<hostdev type='pci'><source><address bus='1' slot='2'/></source></hostdev>"
    assert domain_def(_domain(hostdev * 8192)).gap == ""
    assert "at most 8192 are read" in domain_def(_domain(hostdev * 8193)).gap
    pool = '<address bus="1" slot="2"/>' * 8193
    read = network(f"<network><forward mode='hostdev'>{pool}</forward></network>")
    assert read is not None
    assert "at most 8192 are read" in read.gap


def test_an_element_that_reads_otherwise_when_it_stands_alone_is_not_sent() -> None:
    hostdev = "<hostdev type='pci'><source><address bus='1' slot='2'/></source></hostdev>"
    (entry,) = domain_def(_domain(hostdev)).entries
    assert entry_xml(_domain(hostdev), entry) is not None
    assert entry_xml(_domain(hostdev.replace("'2'", "'3'")), entry) is None
    assert entry_xml("<domain>", entry) is None


# --- extremes ------------------------------------------------------------------------------------------


SIZE = 1024 * 1024
"""A quarter of what is read at all: what takes four times as long is short still."""


def filled(unit: str, start: str, end: str) -> str:
    """As many of it as there is room for."""
    return start + unit * ((SIZE - len(start) - len(end)) // len(unit)) + end


DEVICES = ("<domain id='1'><devices>", "</devices></domain>")
HALF = SIZE // 2
EXTREMES: dict[str, Callable[[], str]] = {
    "SCSI controllers and disks": lambda: _domain(
        "<controller type='scsi' index='0'/>" * (HALF // 36)
        + "<hostdev type='scsi'><address type='drive' unit='1'/></hostdev>" * (HALF // 70)
    ),
    "PCI controllers": lambda: filled("<controller type='pci' index='0' model='pci-root'/>", *DEVICES),
    "guest addresses": lambda: filled("<a><address type='pci' bus='1' slot='1'/></a>", *DEVICES),
    "hostdevs": lambda: filled("<hostdev type='pci'><source><address bus='1' slot='2'/></source></hostdev>", *DEVICES),
    "backing stores": lambda: _domain(
        "<disk>" + "<backingStore type='block'>" * 200 + "</backingStore>" * 200 + "</disk>"
    ),
    "disks with many layers": lambda: filled(
        "<disk>" + "<mirror type='block'><source dev='/dev/a'/>" * 50 + "</mirror>" * 50 + "</disk>", *DEVICES
    ),
    "attributes": lambda: "<domain " + " ".join(f"a{n}='{n}'" for n in range(60_000)) + "/>",
    "namespaces": lambda: "<domain " + " ".join(f"xmlns:a{n}='u{n}'" for n in range(30_000)) + "><devices/></domain>",
    "names": lambda: f"<{'d' * (SIZE - 3)}/>",
    "an alias": lambda: _domain(
        f"<hostdev type='pci'><source><address bus='1' slot='2'/></source><alias name='{'a' * HALF}'/></hostdev>"
    ),
    "a path": lambda: _domain(f"<disk type='block'><source dev='/dev/{'a' * HALF}'/></disk>"),
    "a number": lambda: _domain(
        f"<hostdev type='pci'><source><address bus='{'9' * HALF}' slot='2'/></source></hostdev>"
    ),
    "spaces": lambda: _domain(f"<controller type='pci' index='{' ' * HALF}x'/>"),
    "text": lambda: filled("x", "<network><name>", "</name></network>"),
    "addresses of a pool": lambda: filled(
        "<address bus='1' slot='2'/>", "<network><forward mode='hostdev'>", "</forward></network>"
    ),
    "interfaces of a network": lambda: filled("<pf/>", "<network><forward mode='hostdev'>", "</forward></network>"),
    "uuids": lambda: filled("<uuid>x</uuid>", "<capabilities><host>", "</host></capabilities>"),
}


@pytest.mark.parametrize("what", EXTREMES)
def test_no_extreme_takes_long(what: str) -> None:
    xml = EXTREMES[what]()
    assert len(xml) <= SIZE + 200
    for read in (domain_def, network_macs, is_running_xml, network, host_uuid, lambda xml: node_device(xml, "given")):
        began = time.monotonic()
        read(xml)
        assert time.monotonic() - began < 5, "far from the second that the worst takes"
    # None of it fills a message of the API's.
    for entry in domain_def(xml).entries[:10]:
        assert len(repr(entry)) < 10_000


_BOMB = """
import resource
from hostdevd.virt.xml.domain import domain_def
from hostdevd.virt.xml.nodedev import node_device
levels = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 12))
bomb = f"<!DOCTYPE d [<!ENTITY l0 'boom'>{levels}]><domain>&l11;</domain>"
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert domain_def(bomb).gap
assert node_device(bomb.replace("domain", "device"), "x").type == "other"
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_an_entity_bomb_takes_no_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BOMB],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)),
    )
    assert int(done.stdout) < 20_000, "KiB"
