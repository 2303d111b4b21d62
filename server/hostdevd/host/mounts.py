"""Reading `/proc/PID/mountinfo` and `/proc/swaps`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_ESCAPE = re.compile(r"\\([0-7]{3})")
# id, parent, major:minor, root, mount point, options; then optional fields, "-", type, source, options.
_FIELDS_BEFORE = 6
_FIELDS_AFTER = 3
_OTHERS = frozenset({"logdev", "rtdev"})
_NUMBER = re.compile(r"\d+:\d+")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: the file system's device number and source, and where it is mounted.

    `whole` tells that the root of the file system is mounted and not a directory in it; `others` are the paths of
    further devices that it needs: the log and the real-time device of XFS.
    """

    number: str
    whole: bool
    point: str
    fstype: str
    source: str
    others: tuple[str, ...] = ()

    @property
    def anonymous(self) -> bool:
        """Whether the number is no device's: network and memory file systems, btrfs, ZFS."""
        return self.number.startswith("0:")


def parse_mount(line: str) -> Mount:
    """One line of mountinfo; ValueError when it is none."""
    fields = line.split(" ")
    try:
        end = fields.index("-", _FIELDS_BEFORE)
    except ValueError:
        raise ValueError(f"not a line of mountinfo: {line!r}") from None
    if len(fields) < end + _FIELDS_AFTER or not _NUMBER.fullmatch(fields[2]):
        raise ValueError(f"not a line of mountinfo: {line!r}")
    return Mount(
        number=fields[2],
        whole=fields[3] == "/",
        point=unescaped(fields[4]),
        fstype=fields[end + 1],
        source=unescaped(fields[end + 2]),
        others=tuple(_others("".join(fields[end + 3 : end + 4]))),
    )


def _others(options: str) -> Iterator[str]:
    for option in options.split(","):
        name, _, path = option.partition("=")
        if name in _OTHERS and path:
            yield unescaped(path)


def swap_devices(text: str) -> Iterator[str]:
    """Paths of the block devices in `/proc/swaps`; swap files are their mounted file system's business.

    ValueError at a line that says neither.
    """
    for line in text.split("\n")[1:]:
        fields = line.split()
        if not fields:
            continue
        if len(fields) < 2 or fields[1] not in {"partition", "file"}:  # noqa: PLR2004  path and type
            raise ValueError(f"not a line of /proc/swaps: {line!r}")
        if fields[1] == "partition":
            yield unescaped(fields[0])


def unescaped(text: str) -> str:
    r"""The path that the kernel wrote with `\040` for a space."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
