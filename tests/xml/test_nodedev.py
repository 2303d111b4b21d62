"""libvirt's node device XML becomes the core's NodeDevice, and nothing of it is lost.

Golden documents stand in nodedev/: `X.xml` and what is made of it, `X.json`. After a change that is meant,
`WRITE_GOLDEN=1 pytest tests/xml/test_nodedev.py` writes them anew: read the difference.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import MessageToDict
from lxml import etree

from corpus.leaves import lost
from corpus.rendering import as_message, rendered
from hostdev.v1 import device_pb2
from hostdevd.core.addresses import MdevUuid, PciAddress
from hostdevd.core.model import ConditionCode, MdevFacts, NodeDevice, PciFacts
from hostdevd.virt.xml.nodedev import node_device
from hostdevd.virt.xml.nodedev_classes import pci_class_name, usb_class_name
from hostdevd.virt.xml.nodedev_rules import Field, Message, Rule, compile_rules
from hostdevd.virt.xml.nodedev_table import ROWS

DATA = Path(__file__).parent / "nodedev"
GOLDEN = sorted(path.stem for path in DATA.glob("*.xml"))
SOUND = [name for name in GOLDEN if name != "faults"]
DETAILS = {
    field.name: field.message_type
    for field in device_pb2.Device.DESCRIPTOR.oneofs_by_name["detail"].fields
    if field.message_type is not None
}


def read(name: str) -> str:
    return (DATA / f"{name}.xml").read_text(encoding="utf-8")


def as_json(device: NodeDevice) -> dict[str, object]:
    told = dataclasses.asdict(device)
    if device.facts is not None:
        told["facts"] = {"kind": type(device.facts).__name__, **told["facts"]}
    plain = json.loads(json.dumps(told))
    assert isinstance(plain, dict)
    return plain


# --- goldens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_document_gives_its_golden_device(name: str) -> None:
    told = as_json(node_device(read(name)))
    path = DATA / f"{name}.json"
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    assert told == json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_document_gives_no_condition(name: str) -> None:
    assert node_device(read(name)).conditions == ()


@pytest.mark.parametrize("name", GOLDEN)
def test_the_detail_fits_its_message(name: str) -> None:
    device = node_device(read(name))
    message = as_message(device)
    assert message.WhichOneof("detail") == device.type
    # Nothing but defaults may differ after the way through the message.
    back = MessageToDict(message, preserving_proto_field_name=True)[device.type]
    assert _trimmed(back) == _trimmed(device.detail)


def _trimmed(value: object) -> object:
    # proto3 JSON writes 64-bit numbers as text and leaves out 0 and "" where presence is not kept.
    if isinstance(value, dict):
        return {key: trimmed for key, inner in value.items() if (trimmed := _trimmed(inner)) not in ("0", "False", "")}
    if isinstance(value, list):
        return [_trimmed(inner) for inner in value]
    return str(value)


def test_every_type_of_the_api_has_a_golden_document() -> None:
    assert {node_device(read(name)).type for name in GOLDEN} == set(DETAILS)


# --- the table against the proto ---------------------------------------------------------------------


def test_every_type_of_the_api_has_a_row() -> None:
    assert {row.type for row in ROWS} | {"other"} == set(DETAILS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.type)
def test_the_rows_fields_are_those_of_the_message(row: object) -> None:
    table = next(entry for entry in ROWS if entry is row)
    assert _named(table.rules, table.derived) == _declared(DETAILS[table.type])
    assert set(table.needed) <= {name.split(".")[0] for name in _named(table.rules, table.derived)}


def _named(rules: tuple[Rule, ...], derived: tuple[str, ...], prefix: str = "") -> set[str]:
    names = {f"{prefix}{name}" for name in derived} | {f"{prefix}{rule.name}" for rule in rules}
    for rule in rules:
        if isinstance(rule, Message):
            names |= _named(rule.rules, rule.derived, f"{prefix}{rule.name}.")
    return names


def _declared(message: Descriptor, prefix: str = "") -> set[str]:
    names = set()
    for field in message.fields:
        names.add(f"{prefix}{field.name}")
        if field.message_type is not None:
            names |= _declared(field.message_type, f"{prefix}{field.name}.")
    return names


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.type)
def test_the_goldens_fill_every_field(row: object) -> None:
    table = next(entry for entry in ROWS if entry is row)
    filled: set[str] = set()
    for name in GOLDEN:
        device = node_device(read(name))
        if device.type == table.type:
            filled |= set(_filled(device.detail))
    # One message serves both links; the port is never negotiated.
    assert filled >= _declared(DETAILS[table.type]) - {"pci_express.link_status.port"}


def _filled(detail: object, prefix: str = "") -> Iterator[str]:
    if isinstance(detail, dict):
        for name, value in detail.items():
            yield f"{prefix}{name}"
            yield from _filled(value, f"{prefix}{name}.")
    elif isinstance(detail, list):
        for value in detail:
            yield from _filled(value, prefix)


@pytest.mark.parametrize("path", ["a[1]", "a/text()", "a[@b=c]", "", "//a"])
def test_a_path_outside_the_language_is_refused_at_import(path: str) -> None:
    with pytest.raises(ValueError, match="step"):
        compile_rules([Field(path, "x")])


def test_one_tag_is_told_apart_by_one_attribute_only() -> None:
    with pytest.raises(ValueError, match="told apart"):
        compile_rules([Field("a[@b='1']", "x"), Field("a[@c='1']", "y")])


# --- nothing is lost -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOUND)
def test_nothing_that_the_document_says_is_lost(name: str) -> None:
    assert lost(read(name), rendered) == []


@pytest.mark.parametrize("name", GOLDEN)
def test_an_element_of_a_new_libvirt_is_kept_wherever_it_stands(name: str) -> None:
    root = etree.fromstring(read(name).encode())
    if not [element for element in root.iter("capability") if element.get("type") in {row.capability for row in ROWS}]:
        return  # kept as a whole already
    for index in range(len(list(root.iter()))):
        changed = copy.deepcopy(root)
        place = list(changed.iter())[index]
        new = etree.SubElement(place, "brand-new", shade="mauve")
        new.text = "since 99.0"
        place.set("fresh", "attribute-value")
        kept = " ".join(xml for _, xml in node_device(etree.tostring(changed, encoding="unicode")).other_capabilities)
        where = changed.getroottree().getpath(place)
        assert 'shade="mauve"' in kept, where
        assert "since 99.0" in kept, where
        assert "attribute-value" in kept, where


def test_a_second_value_for_a_single_field_is_kept_as_xml() -> None:
    device = node_device(read("faults"))
    assert device.detail["bus"] == 7
    assert ("bus", "<bus>8</bus>") in device.other_capabilities


@pytest.mark.parametrize(
    "extra",
    [
        "<devnode type='odd'>/dev/odd</devnode>",
        "<devnode>/dev/odd</devnode>",
        "<driver>odd</driver>",
        "<driver odd='1'><name>e1000</name></driver>",
        "<driver><name>e1000</name><odd>1</odd></driver>",
        "<path>/odd</path>",
    ],
)
def test_what_stands_oddly_beside_the_capability_is_kept_and_not_believed(extra: str) -> None:
    plain = node_device(read("usb_device"))
    device = node_device(read("usb_device").replace("</capability>", f"</capability>{extra}"))
    assert dataclasses.replace(device, other_capabilities=()) == plain
    assert "odd" in device.other_capabilities[0][1]


def test_text_that_looks_like_a_number_stays_text() -> None:
    hardware = node_device(read("system")).detail["hardware"]
    assert isinstance(hardware, dict)
    assert hardware["version"] == "0042"
    assert node_device(read("storage")).detail["serial"] == "00123456"


# --- faults ----------------------------------------------------------------------------------------------


def test_a_value_that_cannot_be_read_leaves_its_field_out_and_says_so() -> None:
    device = node_device(read("faults"))
    assert [condition.message for condition in device.conditions] == [
        "<product id> is '0xa8g9': not a hexadecimal number",
        """<address> is '<address domain="0x0000" bus="0x07" slot="0x20" function="0x0"/>': more than 31""",
        "<numa node> is 'first': not a number",
    ]
    assert {condition.code for condition in device.conditions} == {ConditionCode.XML_INVALID}
    assert device.detail["product"] == "NVMe SSD Controller PM9A1"
    assert not {"product_id", "id", "numa_node"} & set(device.detail)
    assert ("numa", '<numa node="first"/>') in device.other_capabilities


def test_a_function_with_a_broken_id_keeps_its_place_in_its_group() -> None:
    facts = node_device(read("faults")).facts
    assert isinstance(facts, PciFacts)
    assert (facts.address, facts.iommu_group, facts.product_id) == (PciAddress(0, 7, 0, 0), 17, 0)


def test_a_function_without_an_address_has_no_facts_and_a_condition() -> None:
    device = node_device(read("pci").replace("<slot>1</slot>", ""))
    assert (device.type, device.facts) == ("pci", None)
    assert [condition.message for condition in device.conditions] == ["<capability type='pci'> tells no slot"]


@pytest.mark.parametrize(
    "bad", ["", " ", "-5", "+5", "1_0", "٣", "0x5", "5.0", "1e3", "9" * 5000, "99999999999999999999"]
)
def test_only_plain_digits_in_range_are_a_number(bad: str) -> None:
    device = node_device(read("usb_device").replace("<device>9</device>", f"<device>{bad}</device>"))
    assert "device" not in device.detail
    assert len(device.conditions) == 1
    assert device.detail["bus"] == 1


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "no XML at all",
        "<device><name>pci_0000_05_01_0</name>",
        "<!DOCTYPE device [<!ENTITY a 'b'>]><device><name>pci_0000_05_01_0</name>&a;</device>",
        "<domain><name>pci_0000_05_01_0</name></domain>",
        "\ud800",
        "<a>" * 1000,
    ],
)
def test_a_document_that_cannot_be_read_is_still_a_device(broken: str) -> None:
    device = node_device(broken, "pci_0000_05_01_0")
    assert device.name == "pci_0000_05_01_0"
    assert device.type == "other"
    assert [condition.code for condition in device.conditions] == [ConditionCode.XML_INVALID]
    as_message(device).SerializeToString()


def test_libvirts_name_goes_before_what_a_broken_document_says() -> None:
    assert node_device("<device><name>usb_1</name><", "scsi_host0").name == "scsi_host0"


@pytest.mark.parametrize(
    ("old", "new"), [("<bus>225</bus>", "<bus>4294967295</bus>"), ("<slot>0</slot>", "<slot>32</slot>")]
)
def test_numbers_that_are_no_address_are_told_as_numbers(old: str, new: str) -> None:
    document = read("pci_old")
    assert old in document
    device = node_device(document.replace(old, new))
    assert (device.type, device.facts) == ("pci", None)
    assert "address" not in device.detail
    assert [condition.message for condition in device.conditions] == ["<capability type='pci'> has no usable address"]
    assert lost(document.replace(old, new), rendered) == []


def test_a_huge_broken_document_is_cut() -> None:
    xml = node_device("<device>" + "x" * 10_000_000, "big").detail["xml"]
    assert isinstance(xml, str)
    assert len(xml) == 65_536


def test_a_device_without_a_capability_keeps_its_xml() -> None:
    device = node_device("<device><name>bare</name></device>")
    assert (device.type, dict(device.detail)) == ("other", {"type": "", "xml": "<device><name>bare</name></device>"})
    assert len(device.conditions) == 1


def test_a_declared_encoding_does_not_matter() -> None:
    xml = "<?xml version='1.0' encoding='ISO-8859-1'?>" + read("usb_device").replace("Ultra", "Ültra")
    assert node_device(xml).detail["product"] == "Ültra"


def test_an_empty_value_of_many_is_no_value() -> None:
    assert node_device(read("net").replace("name='rx'", "name=''")).detail["features"] == ["tx", "tso", "rdma"]


# --- facts -----------------------------------------------------------------------------------------------


def test_a_mediated_device_that_is_not_started_is_in_no_group() -> None:
    assert node_device(read("mdev_inactive")).facts == MdevFacts(MdevUuid("d2441d39-495e-4243-ad9f-beb3f14c23d9"))


@pytest.mark.parametrize("separator", ["_", "-"])
def test_an_old_libvirt_tells_the_uuid_by_the_name_alone(separator: str) -> None:
    uuid = "ee0b88c4-f554-4dc1-809d-b2a01e8e48ad"
    name = f"mdev_{uuid.replace('-', separator)}"
    xml = f"<device><name>{name}</name><capability type='mdev'><type id='t'/></capability></device>"
    device = node_device(xml)
    assert device.facts == MdevFacts(MdevUuid(uuid))
    assert device.conditions == ()
    assert node_device(xml.replace(name, "mdev_odd")).conditions[0].message.endswith("has no usable address")


def test_a_header_type_is_told_only_where_libvirt_tells_the_class() -> None:
    assert "header_type" not in node_device(read("pci_old")).detail
    assert node_device(read("pci")).detail["header_type"] == "endpoint"


def test_unknown_classes_have_no_name() -> None:
    assert pci_class_name(0x420000) is None
    assert pci_class_name(0x02FF00) == "Network controller"
    assert usb_class_name(0x77) is None


# --- speed ---------------------------------------------------------------------------------------------
