"""The benchmark of the watches runs, and what it says of correctness holds at a small size too."""

from __future__ import annotations

from bench import watchers


async def test_the_benchmark_runs() -> None:
    size = watchers.Size(watchers=5, changes=20, flood=200, stall_s=0.2, listeners=3, events=3, calls=5)
    found = await watchers.measure(size)
    assert (found["end equal"], found["burst: end equal"], found["ends equal"]) == (5, 10, True)
