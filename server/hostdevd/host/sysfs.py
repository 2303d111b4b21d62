"""Reading /sys, /proc and /run below a root: text, names and links, with one rule for what fails.

What is not there is None or empty; what is there and cannot be read raises `Unreadable`, because a reader
that takes "I may not look" for "there is nothing" gives a disk away that the host has mounted.
Paths are as the running host names them (`/sys/class/net`), without the root in front.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

# The device went away between two reads, or the attribute has no value on this device.
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO})


class Unreadable(Exception):
    """A file that would tell could not be read, or says what nobody understands."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{printable(path)}: {why}")
        self.path = path
        self.why = why


def printable(text: str) -> str:
    """The text with everything that could not travel in a message, or would move a cursor, as escapes."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii") for char in text
    )


class HostTree:
    """The host's file systems below a root directory."""

    __slots__ = ("_lasting", "_root")

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = os.path.realpath(root).rstrip("/")
        self._lasting: dict[str, tuple[int, str]] = {}

    @property
    def live(self) -> bool:
        """Whether this is the running host and not a recorded or a mounted tree."""
        return not self._root

    def outer(self, path: str) -> str:
        """The path to open for `path` of the host."""
        return self._root + path

    def read_bytes(self, path: str) -> bytes | None:
        """The whole file, None when there is none."""
        try:
            fd = os.open(self._root + path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self._unless_gone(path, error)
            return None
        try:
            chunks = []
            # procfs and sysfs give what they like per read, so only an empty read is the end.
            while chunk := os.read(fd, 1 << 16):
                chunks.append(chunk)
            return b"".join(chunks)
        except OSError as error:
            self._unless_gone(path, error)
            return None
        finally:
            os.close(fd)

    def read(self, path: str) -> str | None:
        """The file's text as it is, None when there is none; what is not UTF-8 is replaced."""
        data = self.read_bytes(path)
        return None if data is None else data.decode("utf-8", "replace")

    def value(self, path: str) -> str:
        """A sysfs attribute without the white space around it; empty when there is none."""
        return (self.read(path) or "").strip()

    def lasting(self, path: str) -> str:
        """A `value` that does not change while its device is there, read once.

        The kernel keeps readers of USB's strings waiting while the device is locked, by a reset as a guest gets it.
        """
        file = self.inode(path)
        known = self._lasting.get(path)
        if known is None or known[0] != file:
            known = self._lasting[path] = file, self.value(path)
        return known[1]

    def require(self, path: str) -> str:
        """The text of a file that every Linux host has; `Unreadable` also when it is missing."""
        text = self.read(path)
        if text is None:
            raise Unreadable(path, "missing")
        return text

    def names(self, path: str) -> tuple[str, ...]:
        """What the directory holds, in no order; empty when there is no such directory."""
        return self._list(path) or ()

    def require_names(self, path: str) -> tuple[str, ...]:
        """What a directory holds that every Linux host has; `Unreadable` when it is missing."""
        names = self._list(path)
        if names is None:
            raise Unreadable(path, "missing")
        return names

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory, links followed."""
        return bool(self.inode(path))

    def inode(self, path: str) -> int:
        """The number of a file or directory, which no other one has while it is there; 0 when it is gone."""
        status = self._stat(path)
        return status.st_ino if status is not None else 0

    def changed_ns(self, path: str) -> int:
        """When a file was last written, or a name in a directory made, replaced or removed; 0 when it is gone."""
        status = self._stat(path)
        return status.st_mtime_ns if status is not None else 0

    def _stat(self, path: str) -> os.stat_result | None:
        try:
            return os.stat(self._root + path)  # noqa: PTH116  hot
        except OSError as error:
            self._unless_gone(path, error)
            return None

    def link(self, path: str) -> str | None:
        """Where a link of sysfs leads, one step: the class directories' entries, `driver`, `master`.

        The path itself when it is no link, None when it is not there. One step costs a tenth of a full
        resolution. The directory that holds it must be none of sysfs's links itself: what stands in the link counts
        from where the directory is. `linked_name` may be asked anywhere.
        """
        try:
            target = os.readlink(self._root + path)  # noqa: PTH115  hot
        except OSError as error:
            if error.errno == errno.EINVAL:
                return path
            self._unless_gone(path, error)
            return None
        return self._inner(os.path.normpath(os.path.join(self._root + path, "..", target)), target)  # noqa: PTH118  hot

    def linked_name(self, path: str) -> str | None:
        """The last part of what a link leads to: a driver's name, a bridge's; None when it is not there."""
        try:
            return os.readlink(self._root + path).rpartition("/")[2]  # noqa: PTH115  hot
        except OSError as error:
            if error.errno != errno.EINVAL:  # no link
                self._unless_gone(path, error)
            return None

    def real(self, path: str) -> str | None:
        """The path with all links resolved, None when it leads nowhere or out of the root."""
        try:
            target = os.path.realpath(self._root + path, strict=True)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}:
                return None
            self._unless_gone(path, error)
            return None
        return self._inner(target, target)

    def _inner(self, target: str, written: str) -> str | None:
        if not self._root:
            return target
        if target.startswith(self._root + "/"):
            return target[len(self._root) :]
        # A recorded tree may hold absolute links, which mean the host's root.
        return os.path.normpath(written) if written.startswith("/") else None

    def _list(self, path: str) -> tuple[str, ...] | None:
        try:
            return tuple(os.listdir(self._root + path))  # noqa: PTH208  hot: thousands of directories a read
        except OSError as error:
            self._unless_gone(path, error)
            return None

    @staticmethod
    def _unless_gone(path: str, error: OSError) -> None:
        if error.errno not in _GONE:
            raise Unreadable(path, error.strerror or str(error)) from error
