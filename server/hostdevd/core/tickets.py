"""Which of several overlapping reads of one object counts."""

from __future__ import annotations

from collections.abc import Container


class Applied:
    """The tickets of the reads that were applied, by object. A read takes its ticket when it starts."""

    __slots__ = ("_tickets",)

    def __init__(self) -> None:
        self._tickets: dict[str, int] = {}

    def newer(self, key: str, ticket: int) -> bool:
        """Whether a read is newer than what was applied; it then counts as applied."""
        if self._tickets.get(key, 0) > ticket:
            return False
        self._tickets[key] = ticket
        return True

    def is_last(self, key: str, ticket: int) -> bool:
        """Whether nothing was applied after that read."""
        return self._tickets.get(key) == ticket

    def since(self, key: str, moment: int) -> bool:
        """Whether a read that began after that moment was applied."""
        return self._tickets.get(key, 0) > moment

    def forget(self, but: Container[str], before: int) -> None:
        """Drop objects that are gone, once no read older than their last one can still be under way."""
        for key in [key for key, ticket in self._tickets.items() if ticket < before and key not in but]:
            del self._tickets[key]
