"""Resume tokens: a position in the one revision space, opaque to clients."""

from __future__ import annotations

import re

from hostdevd.core.errors import invalid_token
from hostdevd.core.past import Position
from hostdevd.core.store import Store

# Before there were lives, tokens had none: those are understood, and too old.
_TOKEN = re.compile(r"r1\.([0-9a-f]{32})\.(?:([0-9a-f]{16})\.)?([0-9]{1,19})")


def resume_token(store: Store, revision: int | None = None) -> str:
    """The token of a revision, the current one by default."""
    return make_token(store.lives.at(store.revision if revision is None else revision))


def make_token(position: Position) -> str:
    """The token of a position."""
    return f"r1.{position.epoch}.{position.life}.{position.revision}"


def read_token(token: str) -> Position:
    """The position of a token; `INVALID_RESUME_TOKEN` for anything else."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise invalid_token("resume_token", "INVALID_RESUME_TOKEN", "is not one of hostdevd's")
    return Position(match[1], match[2] or "", int(match[3]))
