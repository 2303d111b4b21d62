"""Resume tokens: a position in the one revision space, opaque to clients."""

from __future__ import annotations

import re

from hostdevd.core.errors import invalid_token
from hostdevd.core.past import Position
from hostdevd.core.sight import Sight
from hostdevd.core.store import Store

# Before there were lives, tokens had none: those are understood, and too old. A view is told where it is not whole.
_TOKEN = re.compile(r"r1\.([0-9a-f]{32})\.(?:([0-9a-f]{16})\.)?([0-9]{1,19})(?:\.([0-9a-f]{16}))?")


def resume_token(store: Store, sight: Sight, revision: int | None = None) -> str:
    """The token of a revision, the current one by default, for who sees what is told from there."""
    return make_token(store.lives.at(store.revision if revision is None else revision), sight.view)


def make_token(position: Position, view: str) -> str:
    """The token of a position in a view (`Sight.view`)."""
    return f"r1.{position.epoch}.{position.life}.{position.revision}{'.' if view else ''}{view}"


def read_token(token: str) -> tuple[Position, str]:
    """The position of a token and its view; `INVALID_RESUME_TOKEN` for anything else."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise invalid_token("resume_token", "INVALID_RESUME_TOKEN", "is not one of hostdevd's")
    return Position(match[1], match[2] or "", int(match[3])), match[4] or ""
