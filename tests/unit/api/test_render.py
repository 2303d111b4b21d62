"""Rendered messages are kept for the devices that there are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hostdevd.api.render import Renderer


def test_messages_of_gone_devices_are_not_kept() -> None:
    store: Any = SimpleNamespace(devices={"a": object(), "b": object()}, on_commit=[])
    renderer = Renderer(store, lambda: "host")
    kept: dict[str, Any] = renderer._devices
    kept |= {name: (view, object()) for name, view in store.devices.items()}
    del store.devices["a"]
    for listener in store.on_commit:
        listener(1)
    assert set(renderer._devices) == {"b"}
