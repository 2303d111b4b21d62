"""What a shell offers for DEVICE, VM and ASSIGNMENT: asked of the server, quickly, and without a word when it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import typer

from hostdev.channel import Tls
from hostdev.client import HostdevClient
from hostdev.errors import HostdevError

_PATIENCE_S = 1.0  # somebody waits for the tabulator key

Offer = tuple[str, str]
"""A completion and what is shown beside it."""


def _offers(source: Callable[[HostdevClient], Iterable[Offer]]) -> Callable[[typer.Context, str], list[Offer]]:
    def complete(context: typer.Context, incomplete: str) -> list[Offer]:
        given = context.find_root().params
        names = ("tls_ca", "tls_cert", "tls_key", "tls_server_name")
        try:
            tls = Tls.from_environment(*(given[name] for name in names)) if any(map(given.get, names)) else None
            with HostdevClient(given.get("address"), tls=tls, timeout_s=_PATIENCE_S) as client:
                return [offer for offer in dict(source(client)).items() if offer[0].startswith(incomplete)]
        except (HostdevError, ValueError, OSError):
            return []

    return complete


def _devices(client: HostdevClient) -> Iterable[Offer]:
    return ((one.name, one.description or one.type) for one in client.list_devices())


def _groups(client: HostdevClient) -> Iterable[Offer]:
    for one in client.list_groups():
        yield one.uid, " ".join(member.name for member in one.members)
    yield from _devices(client)


def _vms(client: HostdevClient) -> Iterable[Offer]:
    """The VMs that are known by what they hold or held: the API has no list of VMs."""
    for holder in client.list_holders():
        yield holder.vm.name, f"holds {holder.device}"
    for one in client.list_assignments():
        yield one.vm.name, "has an assignment"


def _assignments(client: HostdevClient) -> Iterable[Offer]:
    for one in client.list_assignments():
        yield one.name, f"{one.vm.name}: {' '.join(device.name for device in one.devices)}"


def _vms_and_assignments(client: HostdevClient) -> Iterable[Offer]:
    yield from _vms(client)
    yield from _assignments(client)


devices = _offers(_devices)
groups = _offers(_groups)
vms = _offers(_vms)
assignments = _offers(_assignments)
vms_and_assignments = _offers(_vms_and_assignments)
