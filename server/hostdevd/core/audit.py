"""Who asked to change what, when, and what became of it: the rows of the audit log.

A mutation that is begun has a row that is written together with its intent, so nothing is done that no row tells of,
and a second one with its outcome, written with the last state of its assignment. What is refused, tried dry or changes
nothing has one row, which may be written a little later (`core/audit_log.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique

from hostdevd.core.caller import Caller
from hostdevd.core.errors import HostdevError

TEXT_CHARACTERS = 500
"""How much of a text of the caller's, or of an error's, is kept."""
GROUPS = 256
"""How many of a caller's groups are: with a user namespace of his own anybody can be in 65,536."""


@unique
class Outcome(StrEnum):
    """What became of a request."""

    ACCEPTED = "ACCEPTED"
    """It was begun; the row that ends it is `ended_by` it. Without one it is under way, or a crash cut it short."""
    DONE = "DONE"
    FAILED = "FAILED"
    REFUSED = "REFUSED"
    """Not allowed, invalid, or not possible: nothing was begun."""
    DRY_RUN = "DRY_RUN"
    UNCHANGED = "UNCHANGED"
    """There was nothing to do, or it joined what somebody had begun before."""
    DROPPED = "DROPPED"
    """So many rows (`count`) of this caller were left out: they came too fast, or could not be written."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a change, as it came in; `device` and the others are what the caller wrote.

    `time` in seconds since the epoch. `arguments` is what else the request said. `gids` and `read_only` (the socket it
    came in by) are what the roles go by, besides.
    """

    time: float
    method: str
    caller: str
    uid: int | None = None
    pid: int | None = None
    sans: tuple[str, ...] = ()
    gids: tuple[int, ...] = ()
    read_only: bool = False
    vm: str = ""
    device: str = ""
    assignment: str = ""
    request_id: str = ""
    arguments: str = ""
    dry_run: bool = False

    @classmethod
    def by(cls, caller: Caller, method: str, time: float, *, dry_run: bool = False, **said: str) -> Asked:
        """What a caller asked for, its texts cut to what is kept."""
        texts = {key: text[:TEXT_CHARACTERS] for key, text in said.items()}
        return cls(
            time,
            method,
            caller.name,
            caller.uid,
            caller.pid,
            caller.sans,
            caller.gids[:GROUPS],
            caller.read_only,
            dry_run=dry_run,
            **texts,
        )


@dataclass(slots=True)
class Entry:
    """A request on its way through the service; `accepted` once its row is written durably."""

    asked: Asked
    accepted: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: the reason and text of the error where it failed."""

    outcome: Outcome
    time: float
    reason: str = ""
    message: str = ""

    @classmethod
    def by(cls, error: HostdevError | None, time: float, failed: Outcome = Outcome.FAILED) -> Ended:
        """The outcome of what was begun."""
        if error is None:
            return cls(Outcome.DONE, time)
        return cls(failed, time, error.reason, error.message[:TEXT_CHARACTERS])


@dataclass(frozen=True, slots=True)
class Noted:
    """A row of its own: a request that began nothing, or (`count`) how many of a caller are not told of."""

    asked: Asked
    ended: Ended
    count: int = 0
