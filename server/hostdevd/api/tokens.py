"""Resume tokens: a position in the one revision space, opaque to clients."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hostdevd.core.errors import HostdevError
from hostdevd.core.store import Store

_TOKEN = re.compile(r"r1\.([0-9a-f]{32})\.([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class Position:
    """A revision of one state directory's life."""

    epoch: str
    revision: int


def resume_token(store: Store, revision: int | None = None) -> str:
    """The token of a revision, the current one by default."""
    return make_token(store.epoch, store.revision if revision is None else revision)


def make_token(epoch: str, revision: int) -> str:
    """The token of a revision of this epoch."""
    return f"r1.{epoch}.{revision}"


def read_token(token: str) -> Position:
    """The position of a token; `INVALID_RESUME_TOKEN` for anything else."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise HostdevError(
            "INVALID_RESUME_TOKEN", "resume_token is not one of hostdevd's", metadata={"field": "resume_token"}
        )
    return Position(match[1], int(match[2]))
