"""The comparison itself: it finds what a worse parser would lose."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from corpus.leaves import lost
from corpus.rendering import rendered
from corpus.schema import Schema, uncovered
from hostdev.v1 import device_pb2

GOLDEN = Path(__file__).parents[1] / "xml" / "nodedev"
XML = (GOLDEN / "pci_sriov_pf.xml").read_text("utf-8")


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("bus", "/device/capability/bus"),
        ("function", "/device/capability/function"),  # 0 is what an unset field says too
        ("virt_functions", "/device/capability/capability[1]/@maxCount"),
        ("vpd", "/device/capability/capability[2]/name"),
    ],
)
def test_a_field_that_is_not_filled_is_found(field: str, place: str) -> None:
    def forgetful(xml: str) -> device_pb2.Device:
        message = device_pb2.Device()
        message.CopyFrom(rendered(xml))
        message.pci.ClearField(field)  # type: ignore[arg-type]  # a name of one
        return message

    found = lost(XML, forgetful)
    assert any(line.startswith(f"{place} ") for line in found), found


def test_one_of_two_equal_values_that_is_lost_is_found() -> None:
    def forgetful(xml: str) -> device_pb2.Device:
        message = device_pb2.Device()
        message.CopyFrom(rendered(xml))
        del message.pci.virt_functions.addresses[-1:]
        return message

    assert lost(XML, forgetful)


def test_a_place_of_a_newer_schema_is_found(tmp_path: Path) -> None:
    schema = tmp_path / "nodedev.rng"
    schema.write_text(
        """
        <grammar xmlns="http://relaxng.org/ns/structure/1.0"><start><element name="device">
          <element name="name"><text/></element>
          <optional><element name="shade"><text/></element></optional>
          <element name="capability"><choice>
            <group><attribute name="type"><value>drm</value></attribute>
              <element name="type"><text/></element>
              <zeroOrMore><element name="port"><attribute name="number"/></element></zeroOrMore></group>
            <group><attribute name="type"><value>quantum</value></attribute></group>
          </choice></element>
        </element></start></grammar>
        """,
        "utf-8",
    )
    assert etree.RelaxNG(etree.parse(schema))
    assert uncovered(Schema(schema)) == [
        "capability[@type='drm']/port",
        "capability[@type='quantum']",
        "shade",
    ]
