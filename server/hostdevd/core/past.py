"""What earlier lives of the service left of the holders, and which positions of theirs can be gone on from.

A life is one run of the service on a state directory. Every position is of a life: a directory that was
restored from a back-up goes on with revisions that were given out before, for other states, by lives that it
knows nothing of. Of those that it knows it has what was written, and a crash loses the end of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique

from hostdevd.core.history import Batch
from hostdevd.core.model import Holder


@unique
class Lost(StrEnum):
    """Why a position cannot be gone on from."""

    TOKEN_TOO_OLD = "TOKEN_TOO_OLD"  # noqa: S105  no secret
    TOKEN_AHEAD = "TOKEN_AHEAD"  # noqa: S105
    NEW_EPOCH = "NEW_EPOCH"
    HISTORY_LOST = "HISTORY_LOST"


@dataclass(frozen=True, slots=True)
class Position:
    """A revision, by the life that gave it out; `life` is empty in a token of before there were lives."""

    epoch: str
    life: str
    revision: int


@dataclass(frozen=True, slots=True)
class Lives:
    """The lives of one state directory: the one that runs now, and up to where those before it are known."""

    epoch: str
    now: str
    before: Mapping[str, int] = field(default_factory=dict)

    def at(self, revision: int) -> Position:
        """A position of the life that runs now."""
        return Position(self.epoch, self.now, revision)

    def lost(self, position: Position, revision: int) -> Lost | None:
        """Why a position is not one of what led to the present `revision`; None when it is.

        How far the history reaches back is not asked: see `History.can_continue`.
        """
        if position.epoch != self.epoch:
            return Lost.NEW_EPOCH
        if position.life == self.now:
            return Lost.TOKEN_AHEAD if position.revision > revision else None
        last = self.before.get(position.life)
        if last is None:  # it ran on what this directory is a back-up of
            return Lost.TOKEN_AHEAD
        return Lost.HISTORY_LOST if position.revision > last else None


@dataclass(frozen=True, slots=True)
class Past:
    """The holders as they were at `revision`, and the changes since `oldest` that made them so."""

    revision: int
    oldest: int
    holders: tuple[Holder, ...] = ()
    batches: tuple[Batch[Holder], ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What is to be written of the holders: of which life, and for which revision that is true.

    `batches` are those that are not on disk, `holders` all holders where what is on disk is of no use.
    """

    life: str
    revision: int
    oldest: int
    batches: tuple[Batch[Holder], ...]
    holders: tuple[Holder, ...] | None = None
