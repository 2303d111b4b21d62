"""libvirt's events: the thread that receives them, and what each means to the port.

A callback runs on that thread, holds up all others while it does, and may not raise: it makes plain values
of its arguments and hands them on, nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import libvirt
import structlog

from hostdevd.core.ports import (
    DeviceRemovalFailed,
    DeviceRemoved,
    DomainChanged,
    DomainRebooted,
    DomainStarted,
    DomainStopped,
    Event,
    HypervisorError,
    HypervisorGone,
    NetworksChanged,
    NodeDeviceChanged,
)
from hostdevd.virt.calls import Link, quietly
from hostdevd.virt.handles import ConnectionHandle, DomainHandle, NodeDeviceHandle

_log = structlog.get_logger(__name__)

Emit = Callable[[Event], None]
"""Takes an event from the event thread; must not block or raise."""

Undo = Callable[[], object]


# --- the thread --------------------------------------------------------------------------------------


class EventThread:
    """The thread that runs libvirt's event loop while anybody uses it.

    libvirt has one event loop per process, cannot give it back, and wants it before the first open: so
    there is one of these (`EVENT_THREAD`).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._registered = False
        self._stopping = False
        self._wake_up = -1
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Begin to use it; pairs with `release`."""
        with self._lock:
            if not self._registered:
                # libvirt's default is to print every error on stderr; callers get them as exceptions.
                libvirt.registerErrorHandler(lambda _context, _error: None, None)
                libvirt.virEventRegisterDefaultImpl()
                self._registered = True
            self._users += 1
            if self._thread is None:
                self._stopping = False
                self._wake_up = libvirt.virEventAddTimeout(-1, lambda _timer, _opaque: None, None)
                self._thread = threading.Thread(target=self._run, name="libvirt-events", daemon=True)
                self._thread.start()

    def release(self) -> None:
        """Stop to use it; blocks until the thread has ended when this was the last user."""
        with self._lock:
            self._users -= 1
            if self._users or self._thread is None:
                return
            self._stopping = True
            libvirt.virEventUpdateTimeout(self._wake_up, 0)
            self._thread.join()
            self._thread = None
            libvirt.virEventRemoveTimeout(self._wake_up)

    def _run(self) -> None:
        while not self._stopping:
            if not quietly(libvirt.virEventRunDefaultImpl):
                # Only poll(2) fails here; do not spin on it.
                time.sleep(0.1)


EVENT_THREAD = EventThread()


# --- what they mean ----------------------------------------------------------------------------------


def _lifecycle(uuid: str, event: int, _detail: int) -> tuple[Event, ...]:
    # CRASHED is only news of a panic: the guest may be kept as it is (`on_crash` preserve), holding all
    # that it had. When it ends, STOPPED follows.
    if event == libvirt.VIR_DOMAIN_EVENT_STARTED:
        return DomainStarted(uuid), DomainChanged(uuid)
    if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
        return DomainStopped(uuid), DomainChanged(uuid)
    return (DomainChanged(uuid),)


def _reboot(uuid: str) -> tuple[Event, ...]:
    return (DomainRebooted(uuid),)


def _device_removed(uuid: str, alias: str) -> tuple[Event, ...]:
    return DeviceRemoved(uuid, alias), DomainChanged(uuid)


def _removal_failed(uuid: str, alias: str) -> tuple[Event, ...]:
    return (DeviceRemovalFailed(uuid, alias),)


def _changed(uuid: str, *_: object) -> tuple[Event, ...]:
    return (DomainChanged(uuid),)


DOMAIN_EVENTS: Mapping[int, Callable[..., tuple[Event, ...]]] = {
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE: _lifecycle,
    libvirt.VIR_DOMAIN_EVENT_ID_REBOOT: _reboot,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: _changed,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: _device_removed,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED: _removal_failed,
    libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE: _changed,
}
"""By libvirt's event id: what it means, given the domain's UUID and the event's own arguments."""

NODE_DEVICE_EVENTS = (libvirt.VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE, libvirt.VIR_NODE_DEVICE_EVENT_ID_UPDATE)
"""All mean the same: the name is all that they tell."""


NETWORK_EVENT = libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE
"""Defined, undefined, started and stopped all mean the same: which are active, and their pools, is read."""


# --- registering -------------------------------------------------------------------------------------


def register(link: Link, emit: Emit) -> list[Undo]:
    """Ask for every event that means something, but node devices'; how to take each back."""
    handle = link.handle
    undo: list[Undo] = []
    for event_id, meaning in DOMAIN_EVENTS.items():
        callback = _domain_callback(meaning, emit)
        number = link.call(handle.domainEventRegisterAny, None, event_id, callback, None)
        undo.append(_undo(handle.domainEventDeregisterAny, number))
    undo += _register_networks(link, emit)
    return undo


def register_node_devices(link: Link, emit: Emit) -> list[Undo]:
    """The same for node devices, which another daemon may tell of."""
    handle = link.handle
    undo: list[Undo] = []
    for event_id in NODE_DEVICE_EVENTS:
        callback = _node_device_callback(emit)
        number = link.call(handle.nodeDeviceEventRegisterAny, None, event_id, callback, None)
        undo.append(_undo(handle.nodeDeviceEventDeregisterAny, number))
    return undo


def _register_networks(link: Link, emit: Emit) -> list[Undo]:
    handle = link.handle
    try:
        number = link.call(handle.networkEventRegisterAny, None, NETWORK_EVENT, _network_callback(emit), None)
    except HypervisorGone:
        raise
    except HypervisorError as error:
        # No network driver, or its daemon (virtnetworkd) is away: the rest is worth following without it, and
        # the networks are read again now and then.
        _log.warning("libvirt_networks_not_followed", why=error.text)
        return []
    return [_undo(handle.networkEventDeregisterAny, number)]


def _undo(deregister: Callable[[int], int], number: int) -> Undo:
    return lambda: quietly(deregister, number)


def _domain_callback(meaning: Callable[..., tuple[Event, ...]], emit: Emit) -> Callable[..., None]:
    def callback(_connection: ConnectionHandle, domain: DomainHandle, *arguments: object) -> None:
        # The last argument is the opaque value.
        for event in meaning(domain.UUIDString(), *arguments[:-1]):
            emit(event)

    return callback


def _network_callback(emit: Emit) -> Callable[..., None]:
    def callback(*_arguments: object) -> None:
        emit(NetworksChanged())

    return callback


def _node_device_callback(emit: Emit) -> Callable[..., None]:
    def callback(_connection: ConnectionHandle, device: NodeDeviceHandle, *_arguments: object) -> None:
        emit(NodeDeviceChanged(device.name()))

    return callback
