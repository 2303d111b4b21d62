"""Merged batches lead to the same state as all of them, through any filter."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from hostdevd.core.history import Batch, Change, ChangeSource, History, merge

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Item:
    key: str
    value: int


def change(key: str, before: Item | None, after: Item | None) -> Change[Item]:
    return Change(key, before, after, ChangeSource.EVENT, NOW)


def test_a_removal_for_one_vm_is_not_swallowed_by_an_upsert_for_another() -> None:
    one, two = Item("dev@vm1", 1), Item("dev@vm2", 1)
    batches = [Batch(1, (change("dev@vm1", one, None),)), Batch(2, (change("dev@vm2", None, two),))]
    assert [(delta.removed, delta.item) for delta in merge(batches, lambda _: True)] == [(True, one), (False, two)]


def test_what_came_and_went_is_not_told_and_what_stops_matching_is_removed() -> None:
    item, changed = Item("a", 1), Item("a", 2)
    assert merge([Batch(1, (change("a", None, item),)), Batch(2, (change("a", item, None),))], lambda _: True) == []
    found = merge([Batch(1, (change("a", item, changed),))], lambda one: one.value == 1)
    assert [(delta.removed, delta.item) for delta in found] == [(True, changed)]


def test_history_keeps_what_is_young_or_few() -> None:
    history: History[Item] = History(0, keep_changes=2, keep_s=60.0)
    for revision in range(1, 5):
        history.append(Batch(revision, (change("a", None, Item("a", revision)),)), NOW)
    assert history.oldest == 0
    history.append(Batch(5, (Change("a", None, None, ChangeSource.EVENT, NOW),)), NOW + timedelta(seconds=61))
    assert history.oldest == 3
    assert [batch.revision for batch in history.since(3)] == [4, 5]
    assert history.since(5) == []


writes = st.lists(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.integers(0, 3)), max_size=4), max_size=12)


@given(writes, st.integers(0, 12), st.sets(st.integers(0, 3)))
def test_applying_a_merged_stream_equals_the_state(
    told: list[list[tuple[str, int | None]]], cut: int, wanted: set[int]
) -> None:
    state: dict[str, Item] = {}
    batches, states = [], [dict(state)]
    for revision, batch in enumerate(told, 1):
        changes = []
        for key, value in dict(batch).items():
            before, after = state.get(key), None if value is None else Item(key, value)
            if before != after:
                changes.append(change(key, before, after))
            if after is None:
                state.pop(key, None)
            else:
                state[key] = after
        batches.append(Batch(revision, tuple(changes)))
        states.append(dict(state))
    cut = min(cut, len(batches))

    def seen(at: dict[str, Item]) -> dict[str, Item]:
        return {key: item for key, item in at.items() if item.value in wanted}

    client = seen(states[cut])
    for delta in merge(batches[cut:], lambda item: item.value in wanted):
        if delta.removed:
            assert delta.item.key in client
            del client[delta.item.key]
        else:
            client[delta.item.key] = delta.item
    assert client == seen(state)
