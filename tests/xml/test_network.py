"""What a libvirt network's XML says of the functions that it hands to guests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from hostdevd.core.addresses import PciAddress
from hostdevd.core.model import Network
from hostdevd.virt.xml.network import network

DATA = Path(__file__).parent / "data"
UUID = "55555555-5555-4555-8555-555555555555"
VFS = (PciAddress.parse("0000:17:10.0"), PciAddress.parse("0000:17:10.2"))
ADDRESSES = """
<address type='pci' domain='0x0000' bus='0x17' slot='0x10' function='0x0'/>
<address type='pci' domain='0' bus='23' slot='16' function='2'/>
"""


def net(forward: str) -> str:
    return f"""
    <network connections='1'><name>vf-pool</name><uuid>{UUID}</uuid>{forward}
      <portgroup name='a'/><vlan><tag id='4'/></vlan>
    </network>"""


def hostdev(pool: str) -> str:
    return net(f"<forward mode='hostdev' managed='yes'><driver name='vfio'/>{pool}</forward>")


def test_an_active_network_as_libvirt_shows_it() -> None:
    xml = (DATA / "network-hostdev-live.xml").read_text(encoding="utf-8")
    assert network(xml) == Network("vf-pool", UUID, "eth1", VFS)


POOLS = [
    ("<pf dev='eth1'/>", "eth1", ()),
    (f"<pf dev='eth1'/>{ADDRESSES}", "eth1", VFS),
    (ADDRESSES, None, VFS),
    (ADDRESSES * 2, None, VFS),
    ("", None, ()),
]


@pytest.mark.parametrize(("pool", "pf", "addresses"), POOLS)
def test_a_pool_is_an_interfaces_vfs_or_a_list(pool: str, pf: str | None, addresses: tuple[PciAddress, ...]) -> None:
    assert network(hostdev(pool)) == Network("vf-pool", UUID, pf, addresses)


@pytest.mark.parametrize(
    "forward",
    [
        "",
        "<forward mode='nat'/>",
        "<forward dev='eth1' mode='passthrough'><interface dev='eth1'/></forward>",
        "<forward mode='passthrough'><pf dev='eth1'/></forward>",
        "<forward/>",
    ],
)
def test_other_networks_have_none(forward: str) -> None:
    assert network(net(forward)) is None


@pytest.mark.parametrize(
    ("pool", "pf", "addresses"),
    [
        ("<pf/>", None, ()),
        ("<pf dev=''/>", None, ()),
        ("<pf dev='eth1'/><pf dev='eth2'/>", "eth1", ()),
        (f"{ADDRESSES}<address type='pci' bus='256' slot='0'/>", None, VFS),
        (f"{ADDRESSES}<address/>", None, VFS),
        (f"{ADDRESSES}<address type='usb' bus='1' slot='0'/>", None, VFS),
    ],
)
def test_what_cannot_be_read_of_a_pool_is_told(pool: str, pf: str | None, addresses: tuple[PciAddress, ...]) -> None:
    found = network(hostdev(pool))
    assert found is not None
    assert (found.pf, found.addresses) == (pf, addresses)
    assert found.gap


@pytest.mark.parametrize("xml", ["", "no XML", "<!DOCTYPE network><network/>", "<domain><name>vm</name></domain>"])
def test_what_is_no_network_is_a_pool_that_is_not_known(xml: str) -> None:
    found = network(xml)
    assert found is not None
    assert found.gap


# --- nothing makes it fail -----------------------------------------------------------------------------

WORDS = st.sampled_from(["", "pci", "hostdev", "nat", "eth1", "0x", "08", "-1", "9" * 30, "\u0663"]) | st.text(
    "09afxX.:-_ /", max_size=6
)
TAGS = st.sampled_from(["network", "forward", "pf", "address", "name", "{urn:x}y"])


@given(st.data())
def test_any_change_of_a_network_is_still_read(data: st.DataObject) -> None:
    root = etree.fromstring(hostdev(f"<pf dev='eth1'/>{ADDRESSES}"))
    for _ in range(data.draw(st.integers(1, 8))):
        element = data.draw(st.sampled_from(list(root.iter())))
        parent = element.getparent()
        match data.draw(st.sampled_from(["drop", "set", "unset", "rename", "copy", "text"])):
            case "drop" if parent is not None:
                parent.remove(element)
            case "set" if element.keys():
                element.set(data.draw(st.sampled_from(element.keys())), data.draw(WORDS))
            case "unset" if element.keys():
                del element.attrib[data.draw(st.sampled_from(element.keys()))]
            case "rename":
                element.tag = data.draw(TAGS)
            case "copy" if parent is not None:
                parent.append(etree.fromstring(etree.tostring(element, with_tail=False)))
            case "text":
                element.text = data.draw(WORDS)
    assert isinstance(network(etree.tostring(root, encoding="unicode")), Network | None)


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    assert isinstance(network(text), Network | None)
