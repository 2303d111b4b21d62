"""Several values by key."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)

_FEW = 8


class MultiMap(Generic[K, V]):
    """Distinct values by key, in no order; a key goes with its last value.

    Nearly all keys of a host have one value, and a set of one takes four times as much memory as a tuple: up to
    `_FEW` values are a tuple, more are a set.
    """

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[K, tuple[V, ...] | set[V]] = {}

    def add(self, key: K, value: V) -> None:
        """Add a value; nothing happens when the key has it."""
        known = self._values.get(key)
        if known is None:
            self._values[key] = (value,)
        elif isinstance(known, set):
            known.add(value)
        elif value not in known:
            self._values[key] = (*known, value) if len(known) < _FEW else {*known, value}

    def discard(self, key: K, value: V) -> None:
        """Take a value away; nothing happens when the key does not have it."""
        known = self._values.get(key)
        if known is None or value not in known:
            return
        if isinstance(known, set):
            known.discard(value)
        else:
            known = tuple(one for one in known if one != value)
        if known:
            self._values[key] = known
        else:
            del self._values[key]

    def get(self, key: K) -> Collection[V]:
        """The values of a key, none where there is none; not to be kept over a change."""
        return self._values.get(key, ())

    def of_any(self, keys: Iterable[K]) -> set[V]:
        """The values of all these keys."""
        return {value for key in keys for value in self._values.get(key, ())}

    def __iter__(self) -> Iterator[K]:
        """The keys that have a value."""
        return iter(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __len__(self) -> int:
        """How many keys have a value."""
        return len(self._values)
