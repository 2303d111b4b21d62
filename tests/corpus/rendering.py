"""A document as clients of the service get it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hostdev.v1 import device_pb2
from hostdevd.api.render import Renderer
from hostdevd.core.model import Eligibility, NodeDevice
from hostdevd.core.views import DeviceView
from hostdevd.virt.xml.nodedev import node_device

_STORE: Any = SimpleNamespace(devices={}, on_commit=[], revision=0)
_RENDERER = Renderer(_STORE, lambda: "host")


def as_message(node: NodeDevice) -> device_pb2.Device:
    """The message that the service makes of a device that nobody uses."""
    eligibility = Eligibility(eligible=False, available=False, reasons=())
    return _RENDERER.device(DeviceView(node, "dev-1", (), node.driver, None, eligibility, (), ()))


def rendered(xml: str) -> device_pb2.Device:
    """The message of a document of libvirt's."""
    return as_message(node_device(xml, "given"))
