"""Whether the wall clock can be believed: what is old is forgotten for ever, and a clock may jump.

Records bear wall-clock times, since they outlive the service and the machine. A host that boots with a clock of
another year, or whose clock is set in the middle, must not forget what is a minute old. How long something took is
never asked of the wall clock (`Clock.monotonic`).
"""

from __future__ import annotations

from hostdevd.core.ports import Clock

JUMP_S = 60.0
"""Between two looks, ten seconds apart: no clock that is kept right by small steps goes wrong by as much."""

STEADY_S = 3_600.0
"""Nothing is forgotten for its age by a clock that was set more recently, or that nobody has watched for as long."""


class Steadiness:
    """Looks again and again whether the wall clock goes as time does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock.monotonic()
        self._offset = clock.now() - self._since

    def for_s(self) -> float:
        """For how long it has, as far as was looked."""
        monotonic = self._clock.monotonic()
        offset = self._clock.now() - monotonic
        if abs(offset - self._offset) > JUMP_S:
            self._since = monotonic
        self._offset = offset
        return monotonic - self._since
