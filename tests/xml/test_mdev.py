"""The documents of mediated devices that libvirt is asked to make."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hostdevd.core.ports import MdevSpec
from hostdevd.virt.xml.mdev import build_mdev
from hostdevd.virt.xml.parser import XmlInvalid

UUID = "c2177883-f1bb-47f0-914d-32a22e3a8804"


def test_golden() -> None:
    spec = MdevSpec("pci_0000_12_00_0", "nvidia-222", UUID, (("frl", "1"), ("nvidia/vgpu_params", "a=<b>&'\"")))
    assert build_mdev(spec) == (
        '<device><parent>pci_0000_12_00_0</parent><capability type="mdev"><type id="nvidia-222"/>'
        f'<uuid>{UUID}</uuid><attr name="frl" value="1"/>'
        '<attr name="nvidia/vgpu_params" value="a=&lt;b&gt;&amp;\'&quot;"/></capability></device>'
    )


@given(st.text(min_size=1), st.text(min_size=1), st.lists(st.tuples(st.text(), st.text()), max_size=3))
def test_whatever_is_asked_for_is_said_or_refused(parent: str, type_id: str, attributes: list[tuple[str, str]]) -> None:
    try:
        build_mdev(MdevSpec(parent, type_id, UUID, tuple(attributes)))
    except (XmlInvalid, ValueError):  # what XML cannot carry
        return
