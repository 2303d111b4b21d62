"""Watchers of a store on a virtual loop: the service's own calls, and clients that apply what they are told.

Whenever a client is given a token, what it has must be what the list of that revision said, byte for byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from hostdev.v1 import device_pb2, holder_pb2, service_pb2
from hostdevd.api.access import Access
from hostdevd.api.context import Context
from hostdevd.api.pages import Pages
from hostdevd.api.render import Renderer
from hostdevd.api.service import HostDeviceService
from hostdevd.api.watch import BATCH_INTERVAL_S, Hub
from hostdevd.core.caller import LOOPBACK
from hostdevd.core.errors import HostdevError
from hostdevd.core.history import Batch, ChangeSource, History
from hostdevd.core.identity import Identities
from hostdevd.core.model import Domain, Holder, NodeDevice
from hostdevd.core.past import Lives, Past
from hostdevd.core.ports import DriverState, IdentityFacts
from hostdevd.core.profiles import DEFAULT
from hostdevd.core.store import Senses, Store
from property.virtual import VirtualClock, VirtualLoop

State = dict[str, bytes]
RESET, SNAPSHOT, BATCH, BOOKMARK = "reset", "snapshot", "change_batch", "bookmark"


def finished(call: Coroutine[Any, Any, Any]) -> Any:
    """The answer of a call that waits for nothing but its next turn."""
    waits_for: object = None
    while waits_for is None:
        try:
            waits_for = call.send(None)
        except StopIteration as ended:
            return ended.value
    call.close()
    raise AssertionError(f"it waits for {waits_for}")


class Served:
    """A store with the API on it, in one of its lives after the other."""

    def __init__(self, keep_changes: int) -> None:
        self._keep_changes = keep_changes
        self._lives = 0
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop)
        self.told: dict[str, IdentityFacts] = {}
        self.drivers: dict[object, DriverState] = {}
        self.watchers: list[Watcher] = []
        self.truth: dict[tuple[str, str, int], State] = {}
        self._identities = Identities()
        self._open(self._new_lives(), 0)

    def _new_lives(self) -> Lives:
        self._lives += 1
        return Lives(f"{self._lives:032x}", f"{self._lives:016x}")

    def restart(self, *, new: bool) -> None:
        """End in order and begin another life, on a new state directory or on what this one wrote."""
        old, lives = self.store, self._new_lives()
        if new:
            self._open(lives, 0)
            return
        history = old.holder_history
        past = Past(old.revision, history.oldest, tuple(old.holders.values()), tuple(history.since(history.oldest)))
        before = {**old.lives.before, old.lives.now: old.revision}
        self._open(Lives(old.epoch, lives.now, before), old.revision + 50, past)

    def _open(self, lives: Lives, revision: int, past: Past | None = None) -> None:
        """Begin a life of the service; what the host has is told to it by `change`."""
        senses = Senses(
            driver=lambda address: self.drivers.get(address, DriverState(present=True, driver="e1000e")),
            identity=lambda device: self.told.get(device.name, IdentityFacts()),
            block_paths=lambda _: (),
            now=self.clock.now,
            monotonic=self.clock.monotonic,
        )
        store = self.store = Store(senses, self._identities, DEFAULT, lives=lives, revision=revision, past=past)
        store.on_commit.append(self._note)
        self._shorten(past)
        sync: Any = SimpleNamespace(first_sync=True, synced_time=None, info=None)
        self.hub = Hub(store, sync)
        context = Context(
            store=store,
            sync=sync,
            engine=SimpleNamespace(),  # type: ignore[arg-type]
            admin=SimpleNamespace(),  # type: ignore[arg-type]
            pages=Pages(self.clock.monotonic),
            renderer=Renderer(store, lambda: "host"),
            hub=self.hub,
            access=Access(store, None, lambda _: LOOPBACK),
            audit=SimpleNamespace(),  # type: ignore[arg-type]
            now=self.clock.now,
            checks=lambda: asyncio.sleep(0, ()),
        )
        self.service = HostDeviceService(context)
        self._note(0)

    def _shorten(self, past: Past | None = None) -> None:
        store, oldest, batches = self.store, self.store.revision, tuple[Batch[Holder], ...]()
        store.device_history = History(oldest, keep_changes=self._keep_changes, keep_s=0.5)
        if past is not None:
            oldest, batches = past.oldest, past.batches
        store.holder_history = History(oldest, batches, keep_changes=self._keep_changes, keep_s=0.5)

    def adopt(self) -> None:
        """The state directory can be read at last: it is of another epoch."""
        with self.store.change(ChangeSource.RECONCILE):
            self.store.adopt(self._new_lives(), self.store.revision, (), None)
            self._shorten()

    def change(  # noqa: PLR0913  the store's inputs
        self,
        source: ChangeSource,
        *,
        devices: Iterable[NodeDevice] = (),
        gone: Iterable[str] = (),
        domains: Iterable[Domain] = (),
        ended: Iterable[str] = (),
        look_at: Iterable[str] = (),
    ) -> None:
        async def do() -> None:
            with self.store.change(source):
                self.store.remove_devices(gone)
                self.store.put_devices(devices)
                self.store.put_domains(domains)
                self.store.remove_domains(ended)
                self.store.look_again(look_at)
                if not self.store.is_whole:
                    self.store.begin_whole()

        self.loop.run_until_complete(do())

    def rest(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def _note(self, _: int) -> None:
        for watcher in self.watchers:
            self.note(watcher)

    def note(self, watcher: Watcher) -> None:
        """What this watcher's list says at this revision."""
        self.truth[watcher.label, self.store.epoch, self.store.revision] = watcher.listed()

    def end(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, asyncio.sleep(0), return_exceptions=True))
        self.loop.close()


class Watcher:
    """A client: it applies what comes, and goes on from the last token it noted."""

    def __init__(self, served: Served, label: str, *, by: Callable[[bytes], str] | None = None, **request: Any) -> None:
        self._served = served
        self.label = label
        self._request = request
        self._kind = "device" if "filter" in request else "holder"
        self._key = by or (lambda data: str(self._message(data).name))
        self._task: asyncio.Task[None] | None = None
        self.stall_s = 0.0
        self.state: State = {}
        self.tokens: list[str] = []
        self._expected: str | None = None
        self._part_of: int | None = None
        self._replayed = False
        self._batch_ended: float | None = None
        self.events: list[str] = []
        self.refusals: list[str] = []
        served.watchers.append(self)
        served.note(self)

    def listed(self) -> State:
        """What the list with this filter says now; nothing where it does not know a device of the filter."""
        service, nobody = self._served.service, cast("Any", None)
        found: Iterable[Any] = ()
        try:
            if self._kind == "device":
                request = service_pb2.ListDevicesRequest(page_size=1000, **self._request)
                answer = finished(service.ListDevices(request, nobody))
                found = service_pb2.ListDevicesResponse.FromString(answer).devices
            else:
                asked = service_pb2.ListHoldersRequest(page_size=1000, **self._request)
                answer = finished(service.ListHolders(asked, nobody))
                found = service_pb2.ListHoldersResponse.FromString(answer).holders
        except HostdevError as error:
            if error.reason != "DEVICE_NOT_FOUND":
                raise
        return {self._key(data): data for data in map(_bytes, found)}

    # --- the stream ----------------------------------------------------------------------------------

    def connect(self, *, changes_only: bool = False) -> None:
        """Open the stream: at the last token noted, else from nothing."""
        self.disconnect()
        token = self.tokens[-1] if self.tokens else ""
        if not token:
            self.state = self.listed() if changes_only else {}
        self.events = []
        self._expected = None if token else BOOKMARK if changes_only else SNAPSHOT
        self._part_of, self._replayed, self._batch_ended = None, not token, None
        call = self._call(resume_token=token, changes_only=changes_only)
        self._task = self._served.loop.create_task(self._follow(call))
        self._served.rest(0)

    def disconnect(self, forget: int = 0) -> None:
        """The connection breaks; the client had not yet noted its last tokens."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                self._served.loop.run_until_complete(self._task)
            self._task = None
        if forget and len(self.tokens) > forget:
            del self.tokens[-forget:]

    def _call(self, **arguments: Any) -> Coroutine[Any, Any, None]:
        service, context = self._served.service, cast("Any", self)
        if self._kind == "device":
            return service.WatchDevices(service_pb2.WatchDevicesRequest(**self._request, **arguments), context)
        return service.WatchHolders(service_pb2.WatchHoldersRequest(**self._request, **arguments), context)

    async def _follow(self, call: Coroutine[Any, Any, None]) -> None:
        try:
            await call
        except HostdevError as error:
            self.refusals.append(error.reason)

    @property
    def alive(self) -> bool:
        return self._task is not None and not self._task.done()

    def check(self) -> None:
        """A stream ends by a refusal or not at all: what the client found wrong ends it too."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    async def write(self, message: bytes) -> None:
        """The other end of the stream: it may take its time before it takes a message."""
        begun = self._served.loop.time()
        if self.stall_s:
            await asyncio.sleep(self.stall_s)
        self._take(message, begun)

    def _take(self, sent: bytes, begun: float) -> None:
        kind = service_pb2.WatchDevicesResponse if self._kind == "device" else service_pb2.WatchHoldersResponse
        message: Any = kind.FromString(sent)
        event = message.WhichOneof("event")
        self.events.append(event)
        self._in_order(event, message)
        if event == RESET:
            self.state, self.tokens = {}, []
        elif event == SNAPSHOT:
            for item in getattr(message.snapshot, f"{self._kind}s"):
                self._put(item)
        elif event == BATCH:
            if self._part_of is None and self._batch_ended is not None:
                assert begun - self._batch_ended >= BATCH_INTERVAL_S - 1e-9
            for change in message.change_batch.changes:
                self._apply(change)
            self._part_of = None if message.resume_token else message.revision
            if message.resume_token:
                self._batch_ended, self._replayed = self._served.loop.time(), True
        if message.resume_token:
            self._at(message.resume_token, message.revision)

    def _in_order(self, event: str, message: Any) -> None:
        assert event in {BOOKMARK, BATCH} or not message.resume_token
        if self._part_of is not None:  # the rest of a batch
            assert (event, message.revision) == (BATCH, self._part_of)
        if self._expected is not None and not (self._expected == SNAPSHOT and "snapshot" in self.events):
            assert event == self._expected, self.events
        elif self._expected is not None:
            assert event in {SNAPSHOT, BOOKMARK}, self.events
        if event == RESET:
            self.events = []
            self._expected = SNAPSHOT
        elif event == BOOKMARK:
            assert message.resume_token
            self._expected = None

    def _apply(self, change: Any) -> None:
        item = getattr(change, self._kind)
        assert change.source
        assert change.HasField("time")
        if change.kind == service_pb2.CHANGE_KIND_REMOVE:
            known = self.state.pop(self._key(_bytes(item)), None)
            assert known is not None or not self._replayed, "a removal of what was never told"
        else:
            self._put(item)

    def _put(self, item: Any) -> None:
        data = _bytes(item)
        self.state[self._key(data)] = data

    def _at(self, token: str, revision: int) -> None:
        epoch = token.split(".")[1]
        wanted = self._served.truth[self.label, epoch, revision]
        assert self.state == wanted, (self.label, revision, self._told(self.state), self._told(wanted))
        self.tokens.append(token)

    def _told(self, state: State) -> list[str]:
        return [str(self._message(data)) for _, data in sorted(state.items())]

    def _message(self, data: bytes) -> Any:
        return device_pb2.Device.FromString(data) if self._kind == "device" else holder_pb2.Holder.FromString(data)


def _bytes(item: Any) -> bytes:
    return bytes(item.SerializeToString(deterministic=True))


def by_uid(data: bytes) -> str:
    """The key of a client that knows devices by their uid."""
    return device_pb2.Device.FromString(data).uid


def renamed(domain: Domain, name: str) -> Domain:
    """The same VM under another name."""
    return replace(domain, vm=replace(domain.vm, name=name))
