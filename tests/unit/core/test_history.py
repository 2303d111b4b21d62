"""Merged batches lead to the same state as all of them, through any filter, also where a client knows more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from hostdevd.core.history import Batch, Change, ChangeSource, Delta, History, Span, merge

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Item:
    key: str
    value: int


def change(key: str, before: Item | None, after: Item | None) -> Change[Item]:
    return Change(key, before, after, ChangeSource.EVENT, NOW)


def recorded(batches: Iterable[tuple[Change[Item], ...]]) -> History[Item]:
    history: History[Item] = History(0)
    for revision, changes in enumerate(batches, 1):
        if changes:
            history.append(Batch(revision, changes), 0.0)
    return history


def merged(
    history: History[Item], span: Span, matches: Callable[[Item], bool] = lambda _: True
) -> list[tuple[bool, Item]]:
    lines = history.lines(span.after)
    found: list[Delta[Item]] = [one for one in merge(lines, span, matches, lambda item: item.key) if one is not None]
    return [(delta.removed, delta.item) for delta in found]


def test_a_removal_for_one_vm_is_not_swallowed_by_an_upsert_for_another() -> None:
    one, two = Item("dev@vm1", 1), Item("dev@vm2", 1)
    history = recorded([(change("dev@vm1", one, None),), (change("dev@vm2", None, two),)])
    assert merged(history, Span(0, 2)) == [(True, one), (False, two)]


def test_what_came_and_went_is_not_told_but_where_a_client_may_know_it() -> None:
    item, changed = Item("a", 1), Item("a", 2)
    history = recorded([(change("a", None, item),), (change("a", item, changed),), (change("a", changed, None),)])
    assert merged(history, Span(0, 3)) == []
    assert merged(history, Span(0, 3, replay=True)) == [(True, changed)]
    assert merged(history, Span(0, 3, replay=True), lambda one: one.value == 3) == []


def test_what_stops_matching_is_removed_with_its_last_state() -> None:
    item, changed = Item("a", 1), Item("a", 2)
    history = recorded([(change("a", item, changed),)])
    assert merged(history, Span(0, 1), lambda one: one.value == 1) == [(True, changed)]


def test_a_removal_carries_the_last_state_and_not_the_one_that_the_client_has() -> None:
    item, changed = Item("a", 1), Item("a", 2)
    history = recorded([(change("a", item, changed),), (change("a", changed, None),)])
    assert merged(history, Span(0, 2)) == [(True, changed)]


def test_another_item_under_the_same_key_is_a_removal_and_a_new_one() -> None:
    one, other = Item("one", 1), Item("other", 1)
    history = recorded([(change("slot", one, other),)])
    assert merged(history, Span(0, 1)) == [(True, one), (False, other)]


def test_what_happens_after_the_spans_end_is_not_told_yet() -> None:
    item = Item("a", 1)
    history = recorded([(change("a", None, item),), (change("a", item, None),), (change("b", None, Item("b", 1)),)])
    assert merged(history, Span(0, 1)) == [(False, item)]


def test_history_keeps_what_is_young_or_few() -> None:
    history: History[Item] = History(0, keep_changes=2, keep_s=60.0)
    for revision in range(1, 5):
        history.append(Batch(revision, (change("a", None, Item("a", revision)),)), 0.0)
    assert history.oldest == 0
    history.append(Batch(5, (change("a", None, None),)), 61.0)
    assert history.oldest == 3
    assert [batch.revision for batch in history.since(3)] == [4, 5]
    assert history.since(5) == []
    assert [[step.revision for step in line] for line in history.lines(3)] == [[4, 5]]
    assert history.lines(5) == []


writes = st.lists(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.integers(0, 3)), max_size=4), max_size=12)


def played(told: list[list[tuple[str, int | None]]]) -> tuple[History[Item], list[dict[str, Item]]]:
    """The history of these writes, and the state at each revision."""
    batches: list[tuple[Change[Item], ...]] = []
    states: list[dict[str, Item]] = [{}]
    for batch in told:
        state, changes = dict(states[-1]), []
        for key, value in dict(batch).items():
            before, after = state.pop(key, None), None if value is None else Item(key, value)
            if before != after:
                changes.append(change(key, before, after))
            if after is not None:
                state[key] = after
        batches.append(tuple(changes))
        states.append(state)
    return recorded(batches), states


def applied(client: dict[str, Item], deltas: list[tuple[bool, Item]]) -> dict[str, Item]:
    for removed, item in deltas:
        if removed:
            client.pop(item.key, None)
        else:
            client[item.key] = item
    return client


@given(writes, st.integers(0, 12), st.sets(st.integers(0, 3)))
def test_applying_a_merged_stream_equals_the_state(
    told: list[list[tuple[str, int | None]]], cut: int, wanted: set[int]
) -> None:
    history, states = played(told)
    cut = min(cut, len(told))

    def seen(at: dict[str, Item]) -> dict[str, Item]:
        return {key: item for key, item in at.items() if item.value in wanted}

    deltas = merged(history, Span(cut, len(told)), lambda item: item.value in wanted)
    assert {item.key for removed, item in deltas if removed} <= seen(states[cut]).keys()
    assert applied(seen(states[cut]), deltas) == seen(states[-1])
    replayed = merged(history, Span(cut, len(told), replay=True), lambda item: item.value in wanted)
    for known in states[cut:]:  # an earlier stream may have brought the client anywhere in between
        assert applied(seen(known), replayed) == seen(states[-1])
