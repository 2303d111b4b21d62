"""A bounded number of threads for calls that may never come back.

Not `ThreadPoolExecutor`: its threads are joined when the interpreter ends, and a call that is stuck in
libvirt would then keep the service from stopping.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Overdue(Exception):
    """The job was not done in time; it still runs, or was taken from the queue before it began."""


class _Here(threading.local):
    """What this thread works on."""

    job: _Job[Any] | None = None


_HERE = _Here()


def is_given_up() -> bool:
    """Whether nobody waits any more for the job that calls this: what it has not begun, it must leave."""
    return _HERE.job is not None and _HERE.job.given_up


class _Job(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self.future: Future[T] = Future()
        self.given_up = False
        # What is logged or traced on the thread belongs to whoever asked.
        self._context = copy_context()
        self._work = work

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._context.run(self._work)
        except BaseException as error:  # noqa: BLE001  whoever awaits the future gets it
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Threads:
    """`size` daemon threads that run jobs in order of arrival."""

    def __init__(self, name: str, size: int) -> None:
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._stuck: set[Future[Any]] = set()
        self._ended: Future[None] = Future()
        self._threads = tuple(
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True) for number in range(size)
        )
        self._alive = size
        self._busy = 0
        self._lock = threading.Lock()
        for thread in self._threads:
            thread.start()

    @property
    def stuck(self) -> int:
        """How many threads are still busy with a job that was given up."""
        return len(self._stuck)

    @property
    def waiting(self) -> int:
        """How many jobs wait for a thread."""
        return self._jobs.qsize()

    @property
    def busy(self) -> int:
        """How many threads have a job."""
        return self._busy

    async def run(
        self,
        work: Callable[[], T],
        timeout_s: float,
        abandoned: Callable[[T], object] | None = None,
        more_s: Callable[[], float] | None = None,
    ) -> T:
        """Run `work` on a thread; `Overdue` after `timeout_s`, the wait for a thread included.

        Where it is given, `more_s` is asked then how many seconds more it may take, and again after those.

        Cancelling the wait or its time-out cannot stop work that has begun: its thread stays taken until
        it returns, so that no more than `size` ever run. `abandoned` then gets a result that comes too late.
        """
        job = _Job(work)
        self._jobs.put(job)
        result = asyncio.wrap_future(job.future)
        began, left_s = monotonic(), timeout_s
        try:
            while left_s > 0:
                done, _ = await asyncio.wait({result}, timeout=left_s)
                if done:
                    return result.result()
                left_s = more_s() if more_s is not None else 0.0
        except asyncio.CancelledError:
            result.cancel()
            self._give_up(job, abandoned)
            raise
        result.cancel()
        self._give_up(job, abandoned)
        raise Overdue(f"not done within {round(monotonic() - began, 1):g} s")

    def _give_up(self, job: _Job[T], abandoned: Callable[[T], object] | None) -> None:
        job.given_up = True
        job.future.cancel()  # one that has not begun
        self._stuck.add(job.future)
        # Runs at once when the job is done or was cancelled in the queue.
        job.future.add_done_callback(partial(self._came_late, abandoned))

    def _came_late(self, abandoned: Callable[[T], object] | None, future: Future[T]) -> None:
        self._stuck.discard(future)
        if abandoned is not None and not future.cancelled() and future.exception() is None:
            abandoned(future.result())

    async def close(self, timeout_s: float) -> bool:
        """End the threads, dropping jobs that have not begun; False if one did not come back in time."""
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            if job is not None:
                job.future.cancel()
        for _ in self._threads:
            self._jobs.put(None)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(asyncio.wrap_future(self._ended))
        except TimeoutError:
            return False
        # The last one has nothing left to do; this is no wait worth the name.
        for thread in self._threads:
            thread.join()
        return True

    def _count(self, change: int) -> None:
        with self._lock:
            self._busy += change

    def _serve(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                break
            _HERE.job = job
            self._count(1)
            job.run()
            self._count(-1)
            _HERE.job = None
            # Not to keep the result, a libvirt object maybe, until the next job comes.
            del job
        with self._lock:
            self._alive -= 1
            last = self._alive == 0
        if last:
            self._ended.set_result(None)
