"""The verdict on a device in a word and a colour."""

from __future__ import annotations

from rich.text import Text

from hostdev.cli.words import holding, word
from hostdev.v1 import device_pb2, error_pb2

NEVER = frozenset(
    {error_pb2.ERROR_REASON_TYPE_NOT_ASSIGNABLE, error_pb2.ERROR_REASON_BRIDGE, error_pb2.ERROR_REASON_USB_HUB}
)
"""Reasons by nature: nobody expects such a device to be assignable."""


def never_assignable(eligibility: device_pb2.Eligibility) -> bool:
    """The device is of a kind that is never assigned."""
    return any(reason.code in NEVER for reason in eligibility.reasons)


def codes(eligibility: device_pb2.Eligibility) -> str:
    """The codes of the reasons, each once, in the order of the server."""
    return ", ".join(dict.fromkeys(word(reason, "code") for reason in eligibility.reasons))


def verdict(device: device_pb2.Device) -> Text:
    """Whether the device can be assigned now, and why not."""
    eligibility = device.eligibility
    if device.holders:
        return Text(f"held by {holding(device.holders)}", style="yellow")
    if eligibility.available:
        return Text("available", style="green")
    if eligibility.eligible:
        return Text("held, or what goes with it is", style="yellow")
    return Text(codes(eligibility) or "not eligible", style="dim" if never_assignable(eligibility) else "red")
