"""A connection to libvirt that is always there or being made.

There are several to the daemon, since each serves one call at a time (`Link`): a full read must not hold up an
attach, nor an attach another VM's. A libvirt connection never recovers; when one breaks, all are given up and
made anew, with every callback.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count, repeat
from queue import SimpleQueue
from time import monotonic
from typing import TypeVar

import structlog

from hostdevd.core.observing import CallObserver
from hostdevd.core.ports import Connected, Disconnected, Event, EventSink, HypervisorError, HypervisorGone, Workers
from hostdevd.virt.calls import CallCounter, Link, quietly
from hostdevd.virt.denials import Denials
from hostdevd.virt.events import EVENT_THREAD, Undo, register, register_node_devices
from hostdevd.virt.threads import Overdue, Threads

T = TypeVar("T")

READ_LINKS = 3
READ_THREADS = 8
MUTATION_THREADS = 3
"""And as many connections, one for each."""

READ_TIMEOUT_S = 30.0
"""How long a read may take while no call returns, or one call takes its limit: a slow libvirt is no silent one."""

MUTATION_TIMEOUT_S = 120.0
"""libvirt itself waits 30 s for a domain's lock; unbinding a driver may take long too."""

OPEN_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 10.0

KEEPALIVE_INTERVAL_S = 2
KEEPALIVE_COUNT = 2

_BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)
_LAST_BACKOFF_S = 5.0
_BRIEF_S = 10.0
"""A connection that broke sooner was none worth making: the next is made later."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Session:
    """The connections of one life of the daemon: for reads, the first of which has the events, then for changes."""

    lost: asyncio.Future[str]
    links: list[Link] = field(default_factory=list)
    undo_node_devices: list[Undo] = field(default_factory=list)
    listen: Callable[[], list[Undo]] = list
    """Register for node devices' events."""
    turns: Iterator[int] = field(default_factory=count)
    idle: SimpleQueue[Link] = field(default_factory=SimpleQueue)
    """The connections for changes that nobody uses now."""


@dataclass(frozen=True, slots=True)
class _Workers:
    """The threads: one only opens and closes, so that it is not behind anything that is stuck."""

    control: Threads
    reads: Threads
    mutations: Threads

    @classmethod
    def begin(cls) -> _Workers:
        return cls(
            Threads("libvirt-control", 1),
            Threads("libvirt-read", READ_THREADS),
            Threads("libvirt-mutation", MUTATION_THREADS),
        )

    def all(self) -> tuple[Threads, ...]:
        return (self.control, self.reads, self.mutations)


class Connection:
    """Connects for ever, tells when it is there and when not, and runs calls on bounded threads."""

    def __init__(
        self,
        uri: str,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._uri = uri
        self._sleep = sleep
        self._jitter = jitter
        self._counter = CallCounter()
        self._denials = Denials()
        self._workers: _Workers | None = None
        self._session: _Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._why_not = "not started"

    # --- life --------------------------------------------------------------------------------------

    async def start(self, sink: EventSink) -> None:
        """Begin to connect, in the background."""
        if self._task is not None:
            raise RuntimeError("started already")
        self._why_not = "not connected yet"
        EVENT_THREAD.acquire()
        self._workers = _Workers.begin()
        self._task = asyncio.create_task(self._supervise(self._workers, sink), name="libvirt-connection")
        self._task.add_done_callback(_told)

    async def close(self) -> None:
        """Stop events, close the connections, end the threads; one that is stuck in libvirt is left behind."""
        task, workers, session = self._task, self._workers, self._session
        if task is None or workers is None:
            return
        self._task = self._workers = self._session = None
        self._why_not = "closed"
        task.cancel()
        await asyncio.wait({task})
        if session is not None:
            await self._dispose(workers, session)
        try:
            # Joins the event thread, which closing the connections had need of until now.
            await workers.control.run(EVENT_THREAD.release, CLOSE_TIMEOUT_S)
        except Overdue:
            _log.warning("libvirt_event_thread_stuck")
        ended = await asyncio.gather(*(threads.close(CLOSE_TIMEOUT_S) for threads in workers.all()))
        if not all(ended):
            _log.warning("libvirt_calls_stuck_at_close")

    # --- use ---------------------------------------------------------------------------------------

    @property
    def reader(self) -> Link:
        """A connection for reads; `HypervisorGone` while there is none."""
        readers = self.readers
        return readers[next(self._require().turns) % len(readers)]

    @property
    def readers(self) -> Sequence[Link]:
        """All connections for reads: for work that can be divided."""
        return self._require().links[:READ_LINKS]

    async def read(self, job: Callable[[], T]) -> T:
        """Run a job that reads; `HypervisorGone` when it takes too long."""
        return await self._run("reads", job, READ_TIMEOUT_S)

    async def mutate(self, job: Callable[[Link], T]) -> T:
        """Run a job that changes something; no more than three at a time, whatever becomes of the callers.

        Each has a connection to itself: a job that waits has not begun, and when it is given up it never will.
        """
        session = self._require()

        def work() -> T:
            link = session.idle.get_nowait()  # as many as there are threads
            try:
                return job(link)
            finally:
                session.idle.put(link)

        return await self._run("mutations", work, MUTATION_TIMEOUT_S)

    async def listen_again(self) -> None:
        """Register for node devices' events anew; what cannot is given up, for a new connection."""
        session, workers = self._require(), self._workers
        if workers is None:
            raise HypervisorGone(self._why_not)
        try:
            # On the thread that closes: never at the same time.
            await workers.control.run(partial(_listen_again, session), OPEN_TIMEOUT_S)
        except (HypervisorError, Overdue) as error:
            why = f"node devices cannot be followed: {error}"
            _lose(session, why)
            raise HypervisorGone(why) from error

    @property
    def stuck_calls(self) -> int:
        """Threads that libvirt has not given back although their callers stopped waiting."""
        return 0 if self._workers is None else sum(threads.stuck for threads in self._workers.all())

    def call_counts(self) -> Mapping[str, int]:
        """How often each function of libvirt's was called."""
        return self._counter.read()

    def observe(self, observer: CallObserver) -> None:
        """Tell of every call."""
        self._counter.observer = observer

    def workers(self) -> Mapping[str, Workers]:
        """The threads by what they are for; none before the start."""
        workers = self._workers
        if workers is None:
            return {}
        pools = {"control": workers.control, "reads": workers.reads, "mutations": workers.mutations}
        return {name: Workers(pool.waiting, pool.busy, pool.stuck) for name, pool in pools.items()}

    def why_away(self) -> str:
        """Why there is no connection, as of the last attempt; empty while there is one."""
        return "" if self._session is not None else self._why_not

    def refused(self) -> Sequence[str]:
        """What libvirt does not let this user do, as far as it was tried."""
        return self._denials.read()

    def _require(self) -> _Session:
        if self._session is None:
            raise HypervisorGone(self._why_not)
        return self._session

    async def _run(self, kind: str, job: Callable[[], T], timeout_s: float) -> T:
        if self._workers is None:
            raise HypervisorGone(self._why_not)
        threads = self._workers.reads if kind == "reads" else self._workers.mutations
        try:
            return await threads.run(job, timeout_s, more_s=self._patience_s if kind == "reads" else None)
        except Overdue as error:
            why = f"libvirt did not answer: {error}"
            if kind == "reads" and self._session is not None:
                # A daemon that answers no read is as good as gone; a new connection tells, and all is read again.
                _lose(self._session, why)
            raise HypervisorGone(why) from error

    def _patience_s(self) -> float:
        """How much longer a read may take: until a call's limit, or READ_TIMEOUT_S after the last one returned."""
        links = self._session.links[:READ_LINKS] if self._session is not None else []
        limits = [limit for link in links if (limit := link.limit) is not None]
        if limits:
            return min(limits) - monotonic()
        return max((link.returned for link in links), default=0.0) + READ_TIMEOUT_S - monotonic()

    # --- supervision -------------------------------------------------------------------------------

    async def _supervise(self, workers: _Workers, sink: EventSink) -> None:
        now = asyncio.get_running_loop().time
        brief = 0
        while True:
            session = await self._connect(workers, sink)
            since = now()
            self._session = session
            _log.info("libvirt_connected", uri=self._uri)
            sink(Connected())
            why = await session.lost
            self._session, self._why_not = None, why
            _log.warning("libvirt_disconnected", uri=self._uri, why=why)
            sink(Disconnected(why))
            await self._dispose(workers, session)
            # A daemon that takes connections only to drop them must not be met by a busy loop: each costs a full read.
            await self._sleep(self._pause(_BACKOFF_S[brief]))
            brief = min(brief + 1, len(_BACKOFF_S) - 1) if now() - since < _BRIEF_S else 0

    async def _connect(self, workers: _Workers, sink: EventSink) -> _Session:
        told = ""
        for delay_s in chain(_BACKOFF_S, repeat(_LAST_BACKOFF_S)):
            session = _Session(lost=asyncio.get_running_loop().create_future())
            try:
                opening = partial(self._open, session, sink)
                await workers.control.run(opening, OPEN_TIMEOUT_S, abandoned=partial(_close_late, session))
            except (HypervisorError, Overdue) as error:
                self._why_not = str(error)
            else:
                return session
            if told != self._why_not:
                told = self._why_not
                _log.warning("libvirt_not_reachable", uri=self._uri, why=told)
            await self._sleep(self._pause(delay_s))
        raise AssertionError("repeat() ended")

    def _pause(self, delay_s: float) -> float:
        # Up to half of it at random: many services must not knock at a restarted daemon in step.
        return delay_s * (1 - self._jitter() / 2)

    def _open(self, session: _Session, sink: EventSink) -> None:
        """On the control thread: all connections, with callbacks; nothing is left open on failure."""
        try:
            for _ in range(READ_LINKS + MUTATION_THREADS):
                link = Link.open(self._uri, self._counter, self._denials)
                session.links.append(link)
                self._watch(link, session)
            for link in session.links[READ_LINKS:]:
                session.idle.put(link)
            emit = partial(self._from_thread, session, sink)
            session.links[0].at_close += register(session.links[0], emit)
            session.listen = partial(register_node_devices, session.links[0], emit)
            session.undo_node_devices += session.listen()
        except HypervisorError:
            _close(session)
            raise

    def _watch(self, link: Link, session: _Session) -> None:
        handle, loop = link.handle, session.lost.get_loop()
        link.on_broken = lambda why: _threadsafe(loop, _lose, session, f"a daemon behind libvirt's is gone: {why}")

        def closed(_connection: object, reason: int, _opaque: object) -> None:
            why = _CLOSE_REASONS.get(reason, f"closed, reason {reason}")
            _threadsafe(loop, _lose, session, why)

        link.call(handle.registerCloseCallback, closed, None)
        link.at_close.append(partial(quietly, handle.unregisterCloseCallback))
        # Not every driver has it (test:/// has none); in-process there is nobody to lose.
        quietly(handle.setKeepAlive, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)

    def _from_thread(self, session: _Session, sink: EventSink, event: Event) -> None:
        _threadsafe(session.lost.get_loop(), self._deliver, session, sink, event)

    def _deliver(self, session: _Session, sink: EventSink, event: Event) -> None:
        # What came before Connected is part of what is read then; what comes after Disconnected is stale.
        if self._session is session:
            sink(event)

    async def _dispose(self, workers: _Workers, session: _Session) -> None:
        try:
            await workers.control.run(partial(_close, session), CLOSE_TIMEOUT_S)
        except Overdue:
            _log.warning("libvirt_close_stuck", uri=self._uri)
            # Behind something that does not end, it would be dropped, and six connections left open.
            threading.Thread(target=_close, args=(session,), name="libvirt-close", daemon=True).start()


_CLOSE_REASONS: Mapping[int, str] = {
    0: "the connection failed",
    1: "libvirt closed the connection",
    2: "libvirt does not answer any more (keepalive)",
    3: "the connection was closed here",
}
"""`virConnectCloseReason`."""


def _close(session: _Session) -> None:
    if session.links:
        session.links[0].at_close += session.undo_node_devices
    for link in session.links:
        link.close()
    session.undo_node_devices = []
    session.listen = list
    session.links.clear()


def _listen_again(session: _Session) -> None:
    def deafen() -> None:
        for undo in session.undo_node_devices:
            undo()

    if session.links:
        session.links[0].exclusively(deafen)
    session.undo_node_devices = session.listen()


def _close_late(session: _Session, _opened: None) -> None:
    _close(session)


def _told(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.critical("libvirt_supervision_failed", exc_info=task.exception())


def _lose(session: _Session, why: str) -> None:
    if not session.lost.done():
        session.lost.set_result(why)


def _threadsafe(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        # The loop is closed: the process ends, and nobody is left to tell.
        return
