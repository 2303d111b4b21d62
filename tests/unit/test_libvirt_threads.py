"""Threads for calls that may never come back."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hostdevd.virt.threads import Overdue, Threads

pytestmark = pytest.mark.asyncio

GUARD_S = 60.0


async def test_results_and_errors_reach_the_caller() -> None:
    threads = Threads("t", 2)
    assert await threads.run(lambda: 7, GUARD_S) == 7
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0, GUARD_S)
    # A time-out of the work's own is not the pool's.
    with pytest.raises(TimeoutError):
        await threads.run(_raise_timeout, GUARD_S)
    assert await threads.close(GUARD_S)


async def test_work_that_hangs_is_reported_and_its_late_result_is_handed_over() -> None:
    threads, release, late = Threads("t", 1), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def abandoned(result: bool) -> None:  # noqa: FBT001  the work's result
        assert result
        loop.call_soon_threadsafe(late.set)

    with pytest.raises(Overdue):
        await threads.run(release.wait, 0.01, abandoned)
    assert threads.stuck == 1
    release.set()
    await late.wait()
    assert await threads.run(lambda: threads.stuck, GUARD_S) == 0
    assert await threads.close(GUARD_S)


async def test_work_given_up_in_the_queue_never_begins() -> None:
    threads, release = Threads("t", 1), threading.Event()
    done: list[str] = []
    first = asyncio.create_task(threads.run(release.wait, GUARD_S))
    await asyncio.sleep(0)
    with pytest.raises(Overdue):
        await threads.run(lambda: done.append("second"), 0.01)
    release.set()
    await first
    await threads.run(lambda: done.append("third"), GUARD_S)
    assert done == ["third"]
    assert threads.stuck == 0
    assert await threads.close(GUARD_S)


async def test_no_more_than_its_size_run_even_when_callers_leave() -> None:
    threads, release = Threads("t", 2), threading.Event()
    running: list[int] = []
    began = threading.Semaphore(0)

    def work() -> None:
        running.append(1)
        began.release()
        release.wait()

    callers = [asyncio.create_task(threads.run(work, GUARD_S)) for _ in range(2)]
    await asyncio.to_thread(lambda: [began.acquire() for _ in range(2)])
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    waiting = asyncio.create_task(threads.run(work, GUARD_S))
    await asyncio.sleep(0)
    assert (len(running), threads.stuck) == (2, 2)
    release.set()
    await waiting
    assert await threads.close(GUARD_S)


async def test_closing_does_not_wait_for_ever() -> None:
    threads, release, began = Threads("t", 1), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        release.wait()

    caller = asyncio.create_task(threads.run(work, GUARD_S))
    await asyncio.to_thread(began.wait)
    queued = asyncio.create_task(threads.run(lambda: None, GUARD_S))
    await asyncio.sleep(0)
    assert not await threads.close(0.01)
    with pytest.raises(asyncio.CancelledError):
        await queued
    release.set()
    await caller


def _raise_timeout() -> None:
    raise TimeoutError


async def test_work_that_gets_on_is_waited_for_and_work_that_does_not_is_not() -> None:
    threads, release = Threads("t", 1), threading.Event()
    more = iter([0.01, 0.01])

    def more_s() -> float:
        try:
            return next(more)
        except StopIteration:
            release.set()
            return GUARD_S

    assert await threads.run(release.wait, 0.01, more_s=more_s)
    release.clear()
    with pytest.raises(Overdue):
        await threads.run(release.wait, 0.01, more_s=lambda: -1.0)
    release.set()
    assert await threads.close(GUARD_S)
