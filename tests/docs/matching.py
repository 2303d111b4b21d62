"""Is what a command printed what the page shows? Loosely: a page is to be read, not to be diffed.

A line `...` stands for any lines, `...` in a line for anything in it. Runs of blanks are one, so that a table may grow
wider; uuids, uids, times and what differs from run to run are equal to each other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ANY = "..."
_NORMAL = (
    (re.compile(r"\x1b\[[0-9;]*[A-Za-z]"), ""),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\bdev-[0-9a-f]{8,}\b"), "<device uid>"),
    (re.compile(r"\bgrp-[0-9a-f]{8,}\b"), "<group uid>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?"), "<time>"),
    (re.compile(r"\s+"), " "),
)


def normal(line: str) -> str:
    """A line without what may differ between two runs."""
    for pattern, instead in _NORMAL:
        line = pattern.sub(instead, line)
    return line.strip()


def fits(shown: Sequence[str], printed: str) -> bool:
    """Whether the page's lines tell the output. Empty lines count on neither side."""
    expected = [line for line in map(normal, shown) if line]
    lines = [line for line in map(normal, printed.splitlines()) if line]
    parts: list[list[str]] = [[]]
    for line in expected:
        if line == _ANY:
            parts.append([])
        else:
            parts[-1].append(line)
    first, *later = parts
    if not _at(first, lines, 0):
        return False
    if not later:
        return len(lines) == len(first)
    position = len(first)
    *middle, last = later
    for part in middle:
        found = next((index for index in range(position, len(lines) + 1) if _at(part, lines, index)), None)
        if found is None:
            return False
        position = found + len(part)
    return len(lines) - len(last) >= position and _at(last, lines, len(lines) - len(last))


def _at(part: Sequence[str], lines: Sequence[str], position: int) -> bool:
    there = lines[position : position + len(part)]
    return len(there) == len(part) and all(_line_fits(line, found) for line, found in zip(part, there, strict=True))


def _line_fits(shown: str, printed: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, re.split(r" ?\.{3} ?", shown))), printed) is not None
