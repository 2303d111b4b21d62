"""A watcher of the Python client lives through the death of libvirtd and of hostdevd, and ends equal to the list."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from api import EVENTUALLY_S, Api, eventually
from hosts import LabHost, managed_pci
from libvirtd import restart_libvirtd

from hostdev.client import HostdevClient
from hostdev.progress import Patience
from hostdev.v1 import holder_pb2, service_pb2
from hostdevd.core.ports import Target
from lab.own_service import address_in, serving


class _EndedError(Exception):
    """Nobody follows any more."""


class Follower:
    """Applies the stream, as any program would that wants to know who holds what."""

    def __init__(self, client: HostdevClient) -> None:
        self.held: dict[str, holder_pb2.Holder] = {}
        self.interruptions = 0
        self.begun = threading.Event()
        self._client = client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        with suppress(_EndedError):
            self._apply()

    def _apply(self) -> None:
        patience = Patience(bookmark_interval_s=10.0, interrupted=self._interrupted, pause=self._pause)
        for message in self._client.watch_holders(patience=patience):
            if message.HasField("reset"):
                self.held = {}
            for holder in message.snapshot.holders:
                self.held[holder.name] = holder
            for change in message.change_batch.changes:
                if change.kind == service_pb2.CHANGE_KIND_REMOVE:
                    self.held.pop(change.holder.name, None)
                else:
                    self.held[change.holder.name] = change.holder
            if message.HasField("bookmark"):
                self.begun.set()
            if self._stop.is_set():
                return

    def _interrupted(self, _error: Exception, _pause_s: float) -> None:
        if self._stop.is_set():
            raise _EndedError
        self.interruptions += 1

    def _pause(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def holds(self, vm: str, device: str) -> bool:
        return any((one.vm.name, one.device) == (vm, device) for one in tuple(self.held.values()))

    def end(self) -> None:
        """At the next message, bookmarks come every ten seconds, or at the next attempt to reach a server."""
        self._stop.set()
        self._thread.join(EVENTUALLY_S)
        assert not self._thread.is_alive()


@contextmanager
def following(directory: Path) -> Iterator[Follower]:
    with HostdevClient(address_in(directory)) as client:
        follower = Follower(client)
        try:
            assert follower.begun.wait(EVENTUALLY_S)
            yield follower
        finally:
            follower.end()


def test_a_watcher_outlives_libvirtd_and_its_service(lab: LabHost, tmp_path: Path) -> None:
    name = lab.roles["nic_single"]
    by_hand = managed_pci(lab.api, name, "ua-by-hand")

    def equal(api: Api, follower: Follower, *, held: bool) -> None:
        eventually(lambda: follower.holds("spare", name), lambda holds: holds == held)
        eventually(lambda: follower.held == {one.name: one for one in api.holders()}, bool)

    def attach() -> None:
        lab.virsh_attach("spare", by_hand, Target.CONFIG)

    def detach() -> None:
        lab.virsh_detach("spare", "ua-by-hand", Target.CONFIG)

    with serving(tmp_path) as first, following(tmp_path) as follower:
        attach()
        equal(first.api, follower, held=True)
        restart_libvirtd(first.api)
        detach()
        equal(first.api, follower, held=False)
        assert follower.interruptions == 0  # libvirtd's death is not the watcher's business

        first.kill()
        attach()  # nobody looks
        with serving(tmp_path) as second:
            equal(second.api, follower, held=True)
            after_kill = follower.interruptions
            assert after_kill > 0
            second.stop()
        detach()
        with serving(tmp_path) as third:
            equal(third.api, follower, held=False)
            assert follower.interruptions > after_kill
            follower.end()
