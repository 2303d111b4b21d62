"""What is said over the helper's socket: one line of JSON there, one line of JSON back, then both hang up.

`{"device": "0000:0b:00.0", "count": 4}` and `{"outcome": "DONE", "message": "", "count": 4}`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any

MAX_LINE_BYTES = 4096


@unique
class Outcome(StrEnum):
    """What became of a request."""

    DONE = "DONE"
    NOT_ALLOWED = "NOT_ALLOWED"
    """Who asks is neither root nor the user that the helper serves."""
    INVALID = "INVALID"
    """No request, no such device, or no number that it can have."""
    IN_USE = "IN_USE"
    """A virtual function is bound to VFIO, so a guest may have it."""
    FAILED = "FAILED"
    """The kernel refused, or it has another number afterwards."""


@dataclass(frozen=True, slots=True)
class Request:
    """Have the physical function at `device` have `count` virtual ones."""

    device: str
    count: int

    def line(self) -> bytes:
        """As it is sent."""
        return _line({"device": self.device, "count": self.count})

    @classmethod
    def read(cls, line: bytes) -> Request:
        """What was sent; ValueError for anything else."""
        found = _read(line, {"device": str, "count": int})
        return cls(found["device"], found["count"])


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome, and how many virtual functions there are now where that is known."""

    outcome: Outcome
    message: str = ""
    count: int | None = None

    def line(self) -> bytes:
        """As it is sent."""
        return _line({"outcome": self.outcome.value, "message": self.message, "count": self.count})

    @classmethod
    def read(cls, line: bytes) -> Answer:
        """What was sent; ValueError for anything else."""
        found = _read(line, {"outcome": str, "message": str, "count": (int, type(None))})
        return cls(Outcome(found["outcome"]), found["message"], found["count"])


def _line(fields: dict[str, object]) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _read(line: bytes, types: dict[str, type | tuple[type, ...]]) -> dict[str, Any]:
    try:
        fields: Any = json.loads(line.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(fields, dict) or fields.keys() != types.keys():
        raise ValueError(f"not an object of {', '.join(types)}")
    for key, kind in types.items():
        if not isinstance(fields[key], kind) or isinstance(fields[key], bool):
            raise ValueError(f"{key} is of the wrong type")  # noqa: TRY004  what was sent, not what was called
    return fields
