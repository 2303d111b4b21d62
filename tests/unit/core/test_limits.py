"""The counting of calls and of changes: whose limit is met, and when there is room again."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest

from hostdevd.core.errors import HostdevError
from hostdevd.core.limits import ARRIVALS, ARRIVALS_SURE, ARRIVALS_TOTAL, Counts, Limits, Work

FEW = Limits(
    mutations_per_minute=6,
    mutations_per_minute_total=8,
    reads=2,
    reads_total=3,
    watchers=2,
    watchers_total=3,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refusal(counts: Counts, work: Work, who: str) -> HostdevError:
    with pytest.raises(HostdevError) as refused, counts.enter(work, who):
        counts.allowed(work)
    return refused.value


@pytest.mark.parametrize(
    ("work", "reason"), [(Work.READS, "RATE_LIMITED"), (Work.WATCHERS, "TOO_MANY_WATCHERS")], ids=str
)
def test_one_caller_fills_its_own_room_and_all_of_them_fill_the_whole(work: Work, reason: str) -> None:
    counts = Counts(FEW, Clock())
    with ExitStack() as stack:
        for who in ("one", "one", "two"):
            stack.enter_context(counts.enter(work, who))
        its_own = refusal(counts, work, "one")
        everybody = refusal(counts, work, "three")
        assert (its_own.reason, its_own.metadata["caller"], its_own.metadata["limit"]) == (reason, "one", "2")
        assert (everybody.reason, everybody.metadata["caller"], everybody.metadata["limit"]) == (reason, "", "3")
        assert its_own.retry_after_s
        assert counts.running(work, "one") == 2
    assert counts.running(work) == 0
    with counts.enter(work, "one"):
        assert counts.running(work) == 1


def test_watchers_take_no_room_of_calls() -> None:
    counts = Counts(FEW, Clock())
    with counts.enter(Work.WATCHERS, "one"), counts.enter(Work.WATCHERS, "one"), counts.enter(Work.READS, "one"):
        assert counts.running(Work.READS) == 1


def test_calls_that_never_send_their_request_keep_nobody_else_out() -> None:
    counts = Counts(Limits(), Clock())
    with ExitStack() as stack:
        for number in range(ARRIVALS_TOTAL):
            stack.enter_context(counts.enter(Work.ARRIVALS, f"caller {number // ARRIVALS}"))
        assert refusal(counts, Work.ARRIVALS, "caller 0").reason == "RATE_LIMITED"
        for _ in range(ARRIVALS_SURE):
            stack.enter_context(counts.enter(Work.ARRIVALS, "another"))
        assert refusal(counts, Work.ARRIVALS, "another").metadata["caller"] == ""


def change(counts: Counts, who: str) -> None:
    with counts.enter(Work.MUTATIONS, who):
        counts.allowed(Work.MUTATIONS)


def test_a_minute_has_so_many_changes_and_the_refusal_tells_when_the_next_one_may_come() -> None:
    clock = Clock()
    counts = Counts(FEW, clock)
    for _ in range(6):
        change(counts, "one")
    refused = refusal(counts, Work.MUTATIONS, "one")
    assert (refused.reason, refused.metadata["what"]) == ("RATE_LIMITED", "mutations_per_minute")
    assert refused.retry_after_s == pytest.approx(10.0)
    clock.now += 9.9
    refusal(counts, Work.MUTATIONS, "one")
    clock.now += 0.2
    change(counts, "one")
    refusal(counts, Work.MUTATIONS, "one")


def test_another_caller_has_a_minute_of_its_own_until_all_together_have_had_theirs() -> None:
    counts = Counts(FEW, Clock())
    for who in ("one", "one", "one", "one", "one", "one", "two", "two"):
        change(counts, who)
    assert refusal(counts, Work.MUTATIONS, "two").metadata["caller"] == ""
    assert counts.running(Work.MUTATIONS) == 0


def test_a_refused_change_costs_none() -> None:
    clock = Clock()
    counts = Counts(replace(FEW, mutations=1), clock)
    with counts.enter(Work.MUTATIONS, "one"):
        for _ in range(20):
            refusal(counts, Work.MUTATIONS, "one")
    for _ in range(5):
        change(counts, "one")
    refusal(counts, Work.MUTATIONS, "one")


def test_callers_that_have_long_gone_take_no_memory() -> None:
    clock = Clock()
    counts = Counts(replace(FEW, mutations_per_minute_total=1_000_000), clock)
    for number in range(5000):
        change(counts, f"caller {number}")
        clock.now += 1.0
    assert len(counts._buckets) <= 1025
