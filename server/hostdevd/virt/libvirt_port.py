"""The hypervisor port on libvirt."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar
from zlib import crc32

import libvirt

from hostdevd.core.model import Domain, DomainEntry, HypervisorInfo, Network, NodeDevice
from hostdevd.core.observing import CallObserver
from hostdevd.core.ports import EventSink, HostdevSpec, MdevSpec, NoSuchObject, Target, Workers
from hostdevd.virt.calls import Link
from hostdevd.virt.connection import Connection
from hostdevd.virt.domains import DomainReader, list_domains
from hostdevd.virt.handles import NodeDeviceHandle
from hostdevd.virt.mdevs import create_mdev, delete_mdev
from hostdevd.virt.reading import (
    ParseNodeDevice,
    Told,
    as_node_device,
    list_networks,
    read_info,
    read_network,
    read_node_device,
)
from hostdevd.virt.uri import check_uri
from hostdevd.virt.xml.domain import entry_xml
from hostdevd.virt.xml.hostdev import build_hostdev

H = TypeVar("H")
T = TypeVar("T")

_CHUNK = 128
"""Objects read by one job: enough to keep its cost small, few enough to end within a read's time-out."""

_ASKED_S = 0.000_5
"""Seconds that a device takes in a list: more where libvirt asks polkit about each, far fewer where not."""

_PARSED_AT_ONCE = 1000
"""Devices parsed by one job: about 0.2 s."""

_FLAGS: Mapping[Target, int] = {
    Target.LIVE: libvirt.VIR_DOMAIN_AFFECT_LIVE,
    Target.CONFIG: libvirt.VIR_DOMAIN_AFFECT_CONFIG,
}
"""Exactly one of them: both in one call are not atomic."""


class LibvirtPort:
    """`HypervisorPort` on a libvirt daemon; ValueError for a URI that can never connect."""

    def __init__(
        self,
        uri: str,
        parse_node_device: ParseNodeDevice,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        check_uri(uri)
        self._parse = parse_node_device
        self._domains = DomainReader()
        self._connection = Connection(uri, sleep=sleep, jitter=jitter)

    # --- life --------------------------------------------------------------------------------------

    async def start(self, sink: EventSink) -> None:
        """Begin connecting, in the background and for ever; `Connected` tells when it answers."""
        await self._connection.start(sink)

    async def close(self) -> None:
        """Stop events, end threads, close the connection."""
        await self._connection.close()

    async def listen_again(self) -> None:
        """Ask for node devices' events anew."""
        await self._connection.listen_again()

    @property
    def stuck_calls(self) -> int:
        """Threads that libvirt keeps although nobody waits any more; not 0 for long means it hangs."""
        return self._connection.stuck_calls

    def call_counts(self) -> Mapping[str, int]:
        """Calls into libvirt by function (`virDomain.XMLDesc`), since the start of the process."""
        return self._connection.call_counts()

    def observe(self, observer: CallObserver) -> None:
        """Tell of every call, on the thread that made it."""
        self._connection.observe(observer)

    def workers(self) -> Mapping[str, Workers]:
        """The threads that wait for libvirt."""
        return self._connection.workers()

    def why_away(self) -> str:
        """Why libvirt does not answer now; empty while it does."""
        return self._connection.why_away()

    def refused(self) -> Sequence[str]:
        """What libvirt does not let this user do, as far as it was tried."""
        return self._connection.refused()

    # --- reading -----------------------------------------------------------------------------------

    async def info(self) -> HypervisorInfo:
        """Who answers."""
        return await self._connection.read(partial(read_info, self._connection.reader))

    async def node_device_names(self) -> frozenset[str]:
        """Names of all node devices; libvirt looks at no device for it."""
        link = self._connection.reader
        names = await self._connection.read(lambda: link.call(link.handle.listDevices, None, 0))
        return frozenset(names)

    async def node_devices(self) -> Sequence[NodeDevice]:
        """All node devices, read on several threads; one that vanishes meanwhile is left out.

        First all are read, then all are parsed, on one thread: threads that do both at once wait for each other's
        turn with the interpreter, and take a third longer (docs/benchmarks.md).
        """
        links = self._connection.readers
        began = time.monotonic()
        first = links[0]
        listed = await self._connection.read(lambda: first.call(first.handle.listAllDevices, 0))
        if time.monotonic() - began > len(listed) * _ASKED_S:
            # polkit is asked about each, and answers one after the other: more connections only ask more.
            links = links[:1]
        try:
            async with asyncio.TaskGroup() as group:
                shares = [group.create_task(self._share(links, number, listed)) for number in range(len(links))]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        told = [device for share in shares for device in share.result()]
        found: list[NodeDevice] = []
        for start in range(0, len(told), _PARSED_AT_ONCE):
            portion = told[start : start + _PARSED_AT_ONCE]
            found += await self._connection.read(partial(_parsed, portion, self._parse))
        return found

    async def _share(self, links: Sequence[Link], number: int, first: Sequence[NodeDeviceHandle]) -> Sequence[Told]:
        # By name: each connection must list them anew, and not all lists need be equal.
        link = links[number]

        def listed() -> list[NodeDeviceHandle]:
            handles = first if number == 0 else link.call(link.handle.listAllDevices, 0)
            return [one for one in handles if crc32(one.name().encode()) % len(links) == number]

        handles = await self._connection.read(listed)
        return await self._read_each(handles, partial(read_node_device, link))

    async def node_device(self, name: str) -> NodeDevice:
        """One node device; `NoSuchObject` when it is gone."""
        link = self._connection.reader

        def read() -> NodeDevice:
            handle = link.call(link.handle.nodeDeviceLookupByName, name)
            return as_node_device(read_node_device(link, handle), self._parse)

        return await self._connection.read(read)

    async def domains(self) -> Sequence[Domain]:
        """All domains, running or not; one that vanishes meanwhile is left out."""
        link = self._connection.reader
        listing = await self._connection.read(partial(list_domains, link))
        self._domains.forget_but(listing.uuids)
        return await self._read_each(listing.handles, partial(self._domains.read, link, listing=listing))

    async def domain(self, uuid: str) -> Domain:
        """One domain by UUID; `NoSuchObject` when it is gone."""
        link = self._connection.reader

        def read() -> Domain:
            return self._domains.read(link, link.call(link.handle.lookupByUUIDString, uuid))

        return await self._connection.read(read)

    async def networks(self) -> Sequence[Network]:
        """The active networks that hand out PCI functions; none where libvirt has no network driver."""
        link = self._connection.reader
        handles = await self._connection.read(partial(list_networks, link))
        found = await self._read_each(handles, partial(read_network, link))
        return [network for network in found if network is not None]

    async def _read_each(self, handles: Sequence[H], read: Callable[[H], T]) -> list[T]:
        """In portions, one after the other: all are of one connection, which serves one call at a time."""
        found: list[T] = []
        for start in range(0, len(handles), _CHUNK):
            found += await self._connection.read(partial(_read_present, handles[start : start + _CHUNK], read))
        return found

    # --- changing ----------------------------------------------------------------------------------

    async def nodedev_detach(self, name: str) -> None:
        """Take a PCI function from its driver and bind it to vfio-pci."""

        def detach(link: Link) -> None:
            link.call(link.call(link.handle.nodeDeviceLookupByName, name).detachFlags, None, 0)

        await self._connection.mutate(detach)

    async def nodedev_reattach(self, name: str) -> None:
        """Give a PCI function back to the host: the kernel probes a driver."""

        def reattach(link: Link) -> None:
            link.call(link.call(link.handle.nodeDeviceLookupByName, name).reAttach)

        await self._connection.mutate(reattach)

    async def attach(self, uuid: str, spec: HostdevSpec, target: Target) -> None:
        """Add a hostdev to one definition of a domain; returns when libvirt has done it."""
        xml, flags = build_hostdev(spec), _FLAGS[target]

        def attach(link: Link) -> None:
            link.call(link.call(link.handle.lookupByUUIDString, uuid).attachDeviceFlags, xml, flags)

        await self._connection.mutate(attach)

    async def detach(self, uuid: str, entry: DomainEntry, target: Target) -> None:
        """Ask for an entry's removal, by its alias, or by its own element where it has none (config only).

        CONFIG: done on return. LIVE: only asked, `DeviceRemoved` follows.
        """
        flags = _FLAGS[target]

        def detach(link: Link) -> None:
            domain = link.call(link.handle.lookupByUUIDString, uuid)
            if entry.alias is not None:
                link.call(domain.detachDeviceAlias, entry.alias, flags)
                return
            xml = entry_xml(link.call(domain.XMLDesc, libvirt.VIR_DOMAIN_XML_INACTIVE), entry)
            if xml is None:
                raise NoSuchObject(libvirt.VIR_ERR_DEVICE_MISSING, f"{entry.source} is not in the configuration")
            link.call(domain.detachDeviceFlags, xml, flags)

        await self._connection.mutate(detach)

    async def create_mdev(self, spec: MdevSpec) -> str:
        """Make a mediated device, or what is missing of one; libvirt's name of it."""
        return await self._connection.mutate(partial(create_mdev, spec))

    async def delete_mdev(self, name: str) -> None:
        """Stop a mediated device and forget its definition."""
        await self._connection.mutate(partial(delete_mdev, name))


def _parsed(told: Sequence[Told], parse: ParseNodeDevice) -> list[NodeDevice]:
    return [as_node_device(one, parse) for one in told]


def _read_present(handles: Sequence[H], read: Callable[[H], T]) -> list[T]:
    found = []
    for handle in handles:
        try:
            found.append(read(handle))
        except NoSuchObject:
            # Gone since it was listed; its event is on the way.
            continue
    return found
