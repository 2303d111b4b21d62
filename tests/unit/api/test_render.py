"""Rendered devices are kept for those that there are, and made before somebody asks."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hostdev.v1 import service_pb2
from hostdevd.api.render import Renderer
from hostdevd.core.history import History
from unit.core.rig import machine, until


def test_bytes_of_gone_devices_are_not_kept() -> None:
    store: Any = SimpleNamespace(
        devices={"a": object(), "b": object()}, on_commit=[], revision=1, device_history=History(0)
    )
    renderer = Renderer(store, lambda: "host")
    kept: dict[str, Any] = renderer._devices
    kept |= {name: (view, b"") for name, view in store.devices.items()}
    del store.devices["a"]
    for listener in store.on_commit:
        listener(1)
    assert set(renderer._devices) == {"b"}


async def test_a_host_that_is_renamed_is_named_so_by_its_devices(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        name = "provisional"
        renderer = Renderer(m.core.store, lambda: name)
        view = m.core.store.devices[m.name("dual_1")]
        assert renderer.device(view).host == "provisional"
        name = "kvm7.example"
        assert renderer.device(view).host == "kvm7.example"


async def test_what_changed_is_rendered_before_it_is_asked_for(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        store = m.core.store
        revision = store.revision
        renderer = Renderer(store, lambda: "host")
        task = asyncio.create_task(renderer.keep_up())
        name = m.name("dual_1")
        m.sim.controls.unplug_device(name)
        await until(m, lambda: name not in store.devices)
        await asyncio.sleep(0.05)
        changed = {change.key for batch in store.device_history.since(revision) for change in batch.changes}
        assert set(renderer._devices) == changed & store.devices.keys()
        for other, (view, made) in renderer._devices.items():
            assert store.devices[other] is view
            assert service_pb2.GetDeviceResponse.FromString(made).device.revision == view.revision
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
