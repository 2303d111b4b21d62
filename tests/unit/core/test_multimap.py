"""The multimap against plain sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hostdevd.core.multimap import MultiMap

_STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(0, 15)), max_size=60)


@given(_STEPS)
def test_it_has_what_sets_by_key_would_have(steps: list[tuple[bool, int, int]]) -> None:
    ours: MultiMap[int, int] = MultiMap()
    plain: dict[int, set[int]] = {}
    for add, key, value in steps:
        if add:
            ours.add(key, value)
            plain.setdefault(key, set()).add(value)
        else:
            ours.discard(key, value)
            plain.get(key, set()).discard(value)
    there = {key: values for key, values in plain.items() if values}
    assert {key: set(ours.get(key)) for key in ours} == there
    assert all(len(ours.get(key)) == len(values) for key, values in there.items())
    assert (len(ours), [key in ours for key in range(3)]) == (len(there), [key in there for key in range(3)])
    assert ours.of_any(range(3)) == set().union(*there.values())
