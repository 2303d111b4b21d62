"""What many streams are told is made once, and only for those that are told the same."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from hostdev.v1 import service_pb2, service_pb2_grpc
from hostdevd.api import devices, holders
from hostdevd.api.watch import MADE, MADE_BYTES, Hub, Made
from hostdevd.core.history import ChangeSource
from unit.api.test_served_streams import served, until
from unit.core.rig import machine


def test_only_what_belongs_to_the_last_revision_is_kept() -> None:
    made = Made()
    assert made.get(1, "all") is None
    made.put(1, "all", b"one")
    made.put(1, "none", b"")
    assert (made.get(1, "all"), made.get(1, "none"), made.get(1, "other")) == ((b"one",), (), None)
    made.put(2, "all", b"two")
    assert (made.get(1, "all"), made.get(2, "all"), made.get(2, "none")) == (None, (b"two",), None)
    made.put(1, "all", b"late")  # made by one that took long
    assert made.get(2, "all") == (b"two",)
    made.put(2, None, b"what depends on more")
    assert made.get(2, None) is None


def test_neither_much_nor_many_are_kept() -> None:
    made = Made()
    made.put(1, "big", bytes(MADE_BYTES + 1))
    assert made.get(1, "big") is None
    for number in range(MADE + 5):
        made.put(1, number, b"x")
    assert made.get(1, MADE - 1) == (b"x",)
    assert made.get(1, MADE) is None


async def test_a_change_is_rendered_once_for_all_who_asked_for_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[ChangeSource] = []
    good = devices.change_source

    def counted(source: ChangeSource) -> Any:
        rendered.append(source)
        return good(source)

    monkeypatch.setattr(holders, "change_source", counted)
    async with machine(tmp_path) as m:
        hub = Hub(m.core.store, m.core.sync)
        async with served(m, tmp_path, hub) as address, grpc.aio.insecure_channel(address) as channel:
            stub = service_pb2_grpc.HostDeviceServiceStub(channel)
            asked: list[list[str]] = [[]] * 5 + [["keeper"]] * 5 + [["alpha"]] * 2
            calls: list[Any] = [
                stub.WatchHolders(service_pb2.WatchHoldersRequest(vms=vms, changes_only=True)) for vms in asked
            ]
            for call in calls:
                await call.read()
            await until(lambda: hub.watchers == len(asked))
            m.sim.controls.undefine_domain("keeper")  # it holds a device
            told = [await call.read() for call in calls[:10]]
            assert {one.SerializeToString() for one in told} == {told[0].SerializeToString()}
            assert told[0].change_batch.changes
            assert len(rendered) == 2 * len(told[0].change_batch.changes)  # for all of them, and for those of one VM
            quiet = [asyncio.create_task(call.read()) for call in calls[10:]]
            assert not (await asyncio.wait(quiet, timeout=0.3))[0]
            for call in calls:
                call.cancel()
            await asyncio.gather(*quiet, return_exceptions=True)
