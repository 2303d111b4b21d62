"""The `<hostdev>` elements that the service adds to domains."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostdevd.core.addresses import MdevUuid, PciAddress, ScsiAddress, UsbAddress, UsbProduct
from hostdevd.core.ports import HostdevSpec
from hostdevd.virt.xml.domain import domain_def
from hostdevd.virt.xml.hostdev import build_hostdev

DATA = Path(__file__).parent / "data"

GOLDEN = {
    "pci-managed": HostdevSpec("ua-hostdev-1", PciAddress(0, 5, 0, 1), managed=True),
    "pci-placed": HostdevSpec("ua-hostdev-1", PciAddress(0, 5, 0, 1), managed=True, guest=PciAddress(0, 7, 0, 0)),
    "pci-unassigned": HostdevSpec("ua-hostdev-1", PciAddress(0x10000, 255, 31, 7), unassigned=True),
    "usb-address": HostdevSpec("ua-hostdev-1", UsbAddress(1, 12)),
    "usb-product": HostdevSpec("ua-hostdev-1", UsbProduct(0x0951, 0x1666), optional=True),
    "scsi": HostdevSpec("ua-hostdev-1", ScsiAddress(2, 0, 1, 3), drive=(0, 0, 0, 5)),
    "mdev": HostdevSpec("ua-hostdev-1", MdevUuid("c2177883-f1bb-47f0-914d-32a22e3a8804")),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    assert build_hostdev(GOLDEN[name]) == (DATA / f"hostdev-{name}.xml").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("name", GOLDEN)
def test_never_asks_for_raw_or_unfiltered_scsi(name: str) -> None:
    xml = build_hostdev(GOLDEN[name])
    assert "sgio" not in xml
    assert "rawio" not in xml


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(HostdevSpec("hostdev0", UsbAddress(1, 2)), id="libvirt's own kind of alias"),
        pytest.param(HostdevSpec("ua-'/><x", UsbAddress(1, 2)), id="an alias with markup"),
        pytest.param(HostdevSpec("ua-1", UsbAddress(1, 2), managed=True), id="managed USB"),
        pytest.param(HostdevSpec("ua-1", UsbAddress(1, 2), unassigned=True), id="unassigned USB"),
        pytest.param(HostdevSpec("ua-1", PciAddress(0, 1, 2, 3), optional=True), id="optional PCI"),
        pytest.param(HostdevSpec("ua-1", PciAddress(0, 1, 2, 3), drive=(0, 0, 0, 0)), id="PCI as a drive"),
        pytest.param(HostdevSpec("ua-1", UsbAddress(1, 2), guest=PciAddress(0, 1, 0, 0)), id="USB in a PCI slot"),
        pytest.param(
            HostdevSpec("ua-1", PciAddress(0, 1, 2, 3), unassigned=True, guest=PciAddress(0, 1, 0, 0)),
            id="unassigned and shown",
        ),
        pytest.param(HostdevSpec("ua-1", ScsiAddress(0, 0, 0, 0)), id="SCSI where libvirt likes"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(spec: HostdevSpec) -> None:
    with pytest.raises(ValueError, match=spec.alias):
        build_hostdev(spec)


U31 = st.integers(0, 2**31 - 1)
ALIASES = st.from_regex(r"ua-[A-Za-z0-9_-]{1,64}", fullmatch=True)
PCI = st.builds(PciAddress, st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 31), st.integers(0, 7))
USB = st.builds(UsbAddress, st.integers(1, 999), st.integers(0, 999))
PRODUCT = st.builds(UsbProduct, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
SCSI = st.builds(ScsiAddress, st.integers(0, 10**9 - 1), U31, U31, st.integers(0, 2**64 - 1))
MDEV = st.builds(MdevUuid, st.uuids().map(str))
SPECS = st.one_of(
    st.builds(HostdevSpec, ALIASES, PCI, managed=st.booleans(), unassigned=st.booleans()),
    st.builds(HostdevSpec, ALIASES, USB | PRODUCT, optional=st.booleans()),
    st.builds(HostdevSpec, ALIASES, SCSI, drive=st.tuples(U31, U31, U31, U31)),
    st.builds(HostdevSpec, ALIASES, MDEV),
)


@given(SPECS)
def test_a_domain_with_it_holds_just_that(spec: HostdevSpec) -> None:
    (entry,) = domain_def(f"<domain><devices>{build_hostdev(spec)}</devices></domain>").entries
    assert (entry.source, entry.alias, entry.managed) == (spec.source, spec.alias, spec.managed)


def test_mdev_uuids_are_lower_case() -> None:
    upper = str(UUID(int=0xABCDEF)).upper()
    with pytest.raises(Exception, match="read back"):
        build_hostdev(HostdevSpec("ua-1", MdevUuid(upper)))
