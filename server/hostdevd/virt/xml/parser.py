"""The one way in which XML from outside becomes elements.

The text comes from libvirt, but parts of it were written by whoever may define domains: nothing in it may
make the service fetch, expand or allocate.
"""

from __future__ import annotations

from lxml import etree

MAX_XML_BYTES = 4 * 1024 * 1024
"""libvirt's own bound for a string in its protocol (`REMOTE_STRING_MAX`)."""


class XmlInvalid(Exception):
    """The text is not XML that this service reads: malformed, too large, or with a DOCTYPE."""


def _parser() -> etree.XMLParser:
    # One per document: a shared lxml parser makes its threads wait for each other, a new one costs 1 us.
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )


def parse(xml: str) -> etree._Element:
    """The document's root element; `XmlInvalid` for what is refused."""
    try:
        # The declaration may name any encoding; this text has been decoded already.
        data = xml.encode("utf-8")
    except UnicodeEncodeError as error:
        raise XmlInvalid(f"not Unicode text: {error.reason}") from error
    if len(data) > MAX_XML_BYTES:
        raise XmlInvalid(f"{len(data)} bytes of XML, at most {MAX_XML_BYTES} are read")
    try:
        root = etree.fromstring(data, _parser())
    except etree.XMLSyntaxError as error:
        raise XmlInvalid(f"malformed XML: {error.msg}") from error
    # Asking for the DTD costs a quarter of the parsing: only where the bytes of one stand somewhere.
    if b"<!DOCTYPE" in data and root.getroottree().docinfo.internalDTD is not None:
        raise XmlInvalid("a DOCTYPE is refused")
    return root
