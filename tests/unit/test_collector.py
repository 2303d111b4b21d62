"""The garbage collector rests while the store is loaded, and comes back whatever happens."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from hostdevd.ops import collector


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()


async def test_what_was_loaded_is_not_looked_at_again() -> None:
    loaded = asyncio.Event()
    before = gc.get_freeze_count()
    task = asyncio.create_task(collector.collect_after(loaded))
    await asyncio.sleep(0)
    assert not gc.isenabled()
    loaded.set()
    await task
    assert gc.isenabled()
    assert gc.get_freeze_count() > before


@pytest.mark.parametrize("end", ["time", "cancel"])
async def test_it_comes_back_without_a_load(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(collector, "LOAD_S", 0.01 if end == "time" else 60)
    task = asyncio.create_task(collector.collect_after(asyncio.Event()))
    await asyncio.sleep(0 if end == "cancel" else 0.05)
    if end == "time":
        assert gc.isenabled()
    task.cancel()
    await asyncio.wait({task})
    assert gc.isenabled()


async def test_a_load_that_comes_late_is_not_looked_at_again_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "LOAD_S", 0.01)
    loaded, before = asyncio.Event(), gc.get_freeze_count()
    task = asyncio.create_task(collector.collect_after(loaded))
    await asyncio.sleep(0.05)
    assert gc.isenabled()
    assert gc.get_freeze_count() == before
    loaded.set()
    await asyncio.wait_for(task, 10)
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
