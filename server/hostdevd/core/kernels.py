"""What the host's kernel can do, told by its release."""

from __future__ import annotations

import re

_RELEASE = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(?![0-9])", re.ASCII)

VFIO_OWNS_GROUPS = (5, 19)
"""Since 5.19 VFIO claims the DMA ownership of a whole group, and a host driver that would probe one of its
functions is turned away. Before, the probe goes through and VFIO stops the kernel by a BUG (rules.md,
Detach 4). A distribution's older kernel may have that back-ported (RHEL 9's 5.14 has); its release does not
tell, and a wrong guess costs the host, so it counts as old."""


def release(text: str) -> tuple[int, int] | None:
    """`(6, 1)` of `6.1.0-18-amd64`; None for what is no release."""
    match = _RELEASE.match(text)
    return (int(match[1]), int(match[2])) if match is not None else None


def lets_go_one_by_one(text: str) -> bool:
    """Whether a kernel of this release survives that libvirt rebinds a function whose group a guest still has.

    One that does not tell its release is taken for one that does not.
    """
    found = release(text)
    return found is not None and found >= VFIO_OWNS_GROUPS
