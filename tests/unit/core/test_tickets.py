"""Overlapping reads: the one that began last counts."""

from __future__ import annotations

from hostdevd.core.tickets import Applied


def test_a_read_that_began_earlier_is_refused_and_a_later_one_counts() -> None:
    applied = Applied()
    assert applied.newer("eth0", 3)
    assert not applied.newer("eth0", 2)
    assert applied.newer("eth0", 3)
    assert applied.is_last("eth0", 3)
    assert applied.newer("eth0", 4)
    assert not applied.is_last("eth0", 3)
    assert (applied.since("eth0", 3), applied.since("eth0", 4)) == (True, False)


def test_only_what_is_gone_for_long_is_forgotten() -> None:
    applied = Applied()
    for number, name in enumerate(("here", "gone", "gone_now"), 1):
        applied.newer(name, number)
    applied.forget({"here"}, 3)
    assert applied.newer("gone", 1)
    assert not applied.newer("here", 0)
    assert not applied.newer("gone_now", 2)
