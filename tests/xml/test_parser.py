"""What is refused before anything reads it."""

from __future__ import annotations

import pytest

from hostdevd.virt.xml.parser import MAX_XML_BYTES, XmlInvalid, parse


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("<domain>", id="unclosed"),
        pytest.param("<!DOCTYPE domain><domain/>", id="doctype"),
        pytest.param("\ufeff<!-- --> <!DOCTYPE domain><domain/>", id="doctype after a byte order mark"),
        pytest.param("<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><d>&x;</d>", id="external entity"),
        pytest.param("<domain>&undefined;</domain>", id="undefined entity"),
        pytest.param("<domain>\x00</domain>", id="NUL"),
        pytest.param("<domain>\ud800</domain>", id="half a surrogate pair"),
        pytest.param("<a>" * 1000 + "</a>" * 1000, id="deeper than any of libvirt's"),
        pytest.param(f"<a b='{'x' * MAX_XML_BYTES}'/>", id="larger than libvirt sends"),
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(XmlInvalid):
        parse(text)


def test_entity_bombs_are_refused() -> None:
    levels = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 12))
    with pytest.raises(XmlInvalid):
        parse(f"<!DOCTYPE d [<!ENTITY l0 'boom'>{levels}]><d a='&l11;'>&l11;</d>")


def test_a_declared_encoding_does_not_change_decoded_text() -> None:
    assert parse("<?xml version='1.0' encoding='ISO-8859-1'?><d>ü</d>").text == "ü"


def test_comments_and_instructions_are_no_children() -> None:
    assert [child.tag for child in parse("<d><!-- c --><?pi x?><e/></d>")] == ["e"]


def test_doctype_inside_character_data_is_only_text() -> None:
    assert parse("<d><![CDATA[<!DOCTYPE html>]]></d>").text == "<!DOCTYPE html>"
