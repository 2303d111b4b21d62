"""Which PCI classes may be assigned: the class profiles of rules.md."""

from __future__ import annotations

from dataclasses import dataclass

_CLASS_NAMES = {
    0x00: "unclassified device",
    0x01: "mass storage controller",
    0x02: "network controller",
    0x03: "display controller",
    0x04: "multimedia controller",
    0x05: "memory controller",
    0x06: "bridge",
    0x07: "communication controller",
    0x08: "generic system peripheral",
    0x09: "input device controller",
    0x0A: "docking station",
    0x0B: "processor",
    0x0C: "serial bus controller",
    0x0D: "wireless controller",
    0x0E: "intelligent controller",
    0x0F: "satellite communications controller",
    0x10: "encryption controller",
    0x11: "signal processing controller",
    0x12: "processing accelerator",
    0x13: "non-essential instrumentation",
    0x40: "coprocessor",
    0xFF: "unassigned class",
}


@dataclass(frozen=True, slots=True)
class Profile:
    """Classes by hexadecimal prefix of the six digits: `02`, `0880`; the longest prefix decides.

    A class that no prefix names is allowed when `others_allowed`.
    """

    name: str
    allowed: frozenset[str]
    refused: frozenset[str]
    others_allowed: bool

    def allows(self, class_code: int) -> bool:
        """Whether a function of this 24-bit class may be assigned."""
        digits = f"{class_code:06x}"
        for length in range(len(digits), 0, -1):
            if digits[:length] in self.allowed:
                return True
            if digits[:length] in self.refused:
                return False
        return self.others_allowed


KIMCHI_V7 = Profile(
    "kimchi-v7",
    allowed=frozenset({"0001", "02", "03", "04", "0880", "09", "0d", "0f", "10", "11"}),
    refused=frozenset({"06", "07"}),
    others_allowed=False,
)

DEFAULT = Profile(
    "default",
    allowed=frozenset({"0805", "0880"}),
    refused=frozenset({"05", "06", "07", "08", "0a", "0b", "0c05", "0c07", "13"}),
    others_allowed=True,
)

PROFILES = {profile.name: profile for profile in (DEFAULT, KIMCHI_V7)}


def class_name(class_code: int) -> str:
    """The base class in words: `network controller`; unknown ones as `class 0x42`."""
    base = class_code >> 16
    return _CLASS_NAMES.get(base, f"class 0x{base:02x}")
