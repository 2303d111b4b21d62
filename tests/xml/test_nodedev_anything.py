"""No XML, no text and no size makes the reading of a node device fail, nor its message, nor hides the others."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from corpus.rendering import as_message
from hostdevd.core.model import ConditionCode, NodeDevice
from hostdevd.virt.xml.nodedev import node_device

GOLDEN = {path.stem: path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("nodedev/*.xml"))}
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)  # half surrogate pairs and controls too
NUMBERS = st.sampled_from(["0", "-1", "255", "256", "4294967296", "0xffffffff", "9" * 5000, "1e3", "²", "0x", " 7 "])
TEXTS = ANY_TEXT | NUMBERS | st.sampled_from(["pci", "usb", "storage", "dev", "link", "cap", "readonly"])
PAGE_BYTES = 2 * 1024 * 1024


def check(device: NodeDevice) -> None:
    """What holds of every device, whatever its XML."""
    message = as_message(device)
    assert message.name == device.name
    assert message.WhichOneof("detail") == device.type
    assert message.ByteSize() < PAGE_BYTES
    for _, xml in device.other_capabilities:
        etree.fromstring(xml)


# --- changed documents ---------------------------------------------------------------------------------


@settings(max_examples=300)
@given(data=st.data())
def test_no_change_of_a_document_makes_reading_fail(data: st.DataObject) -> None:
    root = etree.fromstring(GOLDEN[data.draw(st.sampled_from(sorted(GOLDEN)))].encode())
    for _ in range(data.draw(st.integers(1, 6))):
        _mutate(root, data)
    device = node_device(etree.tostring(root, encoding="unicode"), "given")
    assert device.name
    check(device)


def _mutate(root: etree._Element, data: st.DataObject) -> None:
    element = data.draw(st.sampled_from(list(root.iter())))
    above = element.getparent()
    what = data.draw(st.sampled_from(["drop", "double", "text", "attribute", "rename", "tail", "move"]))
    text = data.draw(TEXTS)
    try:
        if what == "text":
            element.text = text
        elif what == "attribute" and element.keys():
            element.set(data.draw(st.sampled_from(element.keys())), text)
        elif what == "tail" and above is not None:
            element.tail = text
        elif what == "rename":
            element.tag = data.draw(st.sampled_from(list(root.iter()))).tag
        elif above is not None and what == "double":
            above.append(copy.deepcopy(element))
        elif above is not None and what == "drop":
            above.remove(element)
        elif above is not None:
            root.append(element)
    except ValueError:
        pass  # text that XML cannot hold


@given(name=st.sampled_from(sorted(GOLDEN)), start=st.integers(0), length=st.integers(0, 40), text=TEXTS)
def test_no_damage_to_the_text_makes_reading_fail(name: str, start: int, length: int, text: str) -> None:
    xml = GOLDEN[name]
    start %= len(xml)
    check(node_device(xml[:start] + text + xml[start + length :], "given"))


# --- anything ------------------------------------------------------------------------------------------

TAGS = st.sampled_from(["device", "name", "parent", "driver", "devnode", "capability", "address", "type", "a:b", "é"])
KEYS = st.sampled_from(["type", "id", "domain", "bus", "slot", "function", "xmlns", "xmlns:a", "validity"])


def _element(inside: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    attributes = st.dictionaries(KEYS, TEXTS, max_size=3)
    return st.builds(
        lambda tag, told, text: f"<{tag}{''.join(f' {key}={value!r}' for key, value in told.items())}>{text}</{tag}>",
        TAGS,
        attributes,
        inside,
    )


@given(st.recursive(TEXTS, lambda inner: _element(st.lists(inner, max_size=3).map("".join)), max_leaves=8))
def test_no_made_up_xml_makes_reading_fail(xml: str) -> None:
    check(node_device(f"<device>{xml}</device>", "given"))


@given(ANY_TEXT)
def test_no_text_makes_reading_fail(text: str) -> None:
    device = node_device(text, "given")
    assert (device.name, device.type) == ("given", "other")
    check(device)


# --- extremes ------------------------------------------------------------------------------------------

PCI = GOLDEN["pci"]
MANY = 50_000


def within(inner: str) -> str:
    """The PCI device with something more in its capability."""
    return PCI.replace("<domain>", f"{inner}<domain>", 1)


def attributes(start: str, count: int) -> str:
    return " ".join(f"{start}{number}='{number}'" for number in range(count))


@pytest.mark.parametrize(
    "xml",
    [
        pytest.param(f"<device {attributes('a', 1_000_000)}/>", id="a million attributes"),
        pytest.param(within(f"<x {attributes('a', MANY // 4)}/>"), id="many attributes"),
        pytest.param(within("<x>" * MANY), id="deep and unclosed"),
        pytest.param(within("<x>" * 200 + "</x>" * 200), id="as deep as is read"),
        pytest.param(within("<capability type='vpd'>" * 5000 + "</capability>" * 5000), id="deep in known elements"),
        pytest.param(within("<x/>" * MANY), id="many unknown elements"),
        pytest.param(within("<address/>" * (MANY // 3)), id="many misplaced elements"),
        pytest.param(
            within("<iommuGroup number='1'>" + "<address domain='z'/>" * (MANY // 6) + "</iommuGroup>"),
            id="many broken values",
        ),
        pytest.param(
            PCI.replace("<device>", f"<device {attributes('xmlns:n', 5000)}>").replace(
                "<domain>", "<x/>" * 5000 + "<domain>"
            ),
            id="names that each kept element repeats",
        ),
        pytest.param(PCI.replace("<domain>0<", f"<domain>{'9' * MANY}<"), id="a number of many digits"),
        pytest.param(PCI.replace("<name>", f"<name>{'n' * MANY}", 1), id="a name of many characters"),
        pytest.param(PCI.replace("<name>", "<name>\x00"), id="NUL"),
        pytest.param(PCI.replace("<name>", "<name>\ud800"), id="half a surrogate pair"),
        pytest.param(PCI.replace("<name>", "<name>\x1b"), id="a control character"),
        pytest.param(PCI.replace("<name>", "<name>&#0;"), id="a reference to NUL"),
        pytest.param("<?xml version='1.0' encoding='UTF-16'?>" + PCI, id="another encoding declared"),
        pytest.param(PCI.encode("utf-16").decode("latin-1"), id="another encoding"),
        pytest.param(f"<{'d' * MANY}/>", id="a root of many characters"),
    ],
)
@pytest.mark.timeout(60)  # the worst takes half a second
def test_no_extreme_makes_reading_fail_or_hang(xml: str) -> None:
    check(node_device(xml, "given"))


def test_many_faults_are_told_as_a_number() -> None:
    broken = within("<iommuGroup number='1'>" + "<address domain='z'/>" * 100 + "</iommuGroup>")
    conditions = node_device(broken).conditions
    assert {condition.code for condition in conditions} == {ConditionCode.XML_INVALID}
    assert conditions[-1].message == "and 80 more of such faults"
    assert len(conditions) == 21


def test_a_document_larger_than_any_of_libvirts_is_not_read() -> None:
    device = node_device(within("<x/>" * 200_000), "given")
    assert (device.name, device.type) == ("given", "other")
    assert device.conditions[0].message.endswith("characters of XML, at most 262144 are read")
