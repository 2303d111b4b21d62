"""Numbers as libvirt writes and accepts them in XML: decimal, 0x hexadecimal, 0 octal."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\s*(?:0[xX]([0-9a-fA-F]{1,16})|0([0-7]{1,22})|([0-9]{1,20}))\s*", re.ASCII)


def number(text: str | None, limit: int) -> int | None:
    """The number in 0..limit that the text holds, or None."""
    match = _NUMBER.fullmatch(text or "")
    if match is None:
        return None
    hexadecimal, octal, decimal = match.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    return value if value <= limit else None


def numbers(attributes: tuple[tuple[str | None, int], ...]) -> tuple[int, ...] | None:
    """All of several (text, limit) pairs, or None when one of them cannot be read."""
    values = tuple(number(text, limit) for text, limit in attributes)
    found = tuple(value for value in values if value is not None)
    return found if len(found) == len(values) else None
