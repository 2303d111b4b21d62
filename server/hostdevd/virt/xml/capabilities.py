"""The host's UUID, from `<capabilities>` or from the node device of the whole system."""

from __future__ import annotations

from uuid import UUID

from hostdevd.virt.xml.parser import XmlInvalid, parse

_PLACES = ("host/uuid", "capability[@type='system']/hardware/uuid")


def host_uuid(xml: str) -> str:
    """The UUID in lower case; empty when the XML has none."""
    try:
        root = parse(xml)
        found = (root.findtext(place) for place in _PLACES)
        return next((str(UUID(text.strip())) for text in found if text), "")
    except (XmlInvalid, ValueError):
        return ""
