"""What is read of a domain, on a read thread: all of them again and again, so as little as can be.

libvirt 9 does not tell of every change: nothing of a device in the inactive definition, nothing of a disk that
changes its source under a running guest (snapshots, CD-ROMs). So both definitions are fetched; but one that reads
as it did last time is not parsed, and what lists can tell of all domains is not asked of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import libvirt
import structlog

from hostdevd.core.model import Domain, DomainDef, Vm, VmState
from hostdevd.core.ports import HypervisorError
from hostdevd.virt.calls import Link
from hostdevd.virt.handles import DomainHandle
from hostdevd.virt.xml.domain import domain_def, is_running_xml, network_macs

log = structlog.get_logger()

_ACTIVE: Mapping[int, VmState] = {
    libvirt.VIR_DOMAIN_NOSTATE: VmState.RUNNING,
    libvirt.VIR_DOMAIN_RUNNING: VmState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: VmState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: VmState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: VmState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: VmState.SUSPENDED,
    # A panicked guest that `on_crash` preserves: it runs no more, but holds what it held.
    libvirt.VIR_DOMAIN_CRASHED: VmState.PAUSED,
}
"""The state of a domain that has a guest. One state for what "shutting down" is: it holds until it is off."""

_LISTED_STATES: Mapping[int, int] = {
    libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING: libvirt.VIR_DOMAIN_RUNNING,
    libvirt.VIR_CONNECT_LIST_DOMAINS_PAUSED: libvirt.VIR_DOMAIN_PAUSED,
    libvirt.VIR_CONNECT_LIST_DOMAINS_SHUTOFF: libvirt.VIR_DOMAIN_SHUTOFF,
}
"""Lists of domains by state. The rare other states have one list for all, which says too little."""

_LIVE_XML_TRIES = 3


@dataclass(frozen=True, slots=True)
class Listing:
    """All domains, and what the lists tell of each (by UUID). A state that is not in `states` must be asked for."""

    handles: tuple[DomainHandle, ...]
    uuids: tuple[str, ...]
    persistent: frozenset[str]
    saved: frozenset[str]
    states: Mapping[str, int]


def list_domains(link: Link) -> Listing:
    """All domains, by six calls however many there are."""
    handles = tuple(link.call(link.handle.listAllDomains, 0))
    by_state = {state: _listed(link, flag) for flag, state in _LISTED_STATES.items()}
    states: dict[str, int] = {}
    unsure: set[str] = set()
    for state, uuids in by_state.items():
        unsure |= uuids & states.keys()  # it changed from one list to the next
        states.update(dict.fromkeys(uuids, state))
    return Listing(
        handles=handles,
        uuids=tuple(handle.UUIDString() for handle in handles),
        persistent=_listed(link, libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT),
        saved=_listed(link, libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE),
        states={uuid: state for uuid, state in states.items() if uuid not in unsure},
    )


def _listed(link: Link, flag: int) -> frozenset[str]:
    return frozenset(handle.UUIDString() for handle in link.call(link.handle.listAllDomains, flag))


@dataclass(frozen=True, slots=True)
class _Said:
    """What a domain said last: digests of its XML, and what was read of it."""

    config_digest: bytes
    live_digest: bytes
    config: DomainDef | None
    live: DomainDef | None


_NOTHING = _Said(b"", b"", None, None)


class DomainReader:
    """Reads domains; for any thread. What it remembers follows from the XML's text alone, so it is never stale."""

    def __init__(self) -> None:
        self._said: dict[str, _Said] = {}

    def forget_but(self, uuids: Collection[str]) -> None:
        """Keep nothing of domains that are gone."""
        for uuid in set(self._said).difference(uuids):
            self._said.pop(uuid, None)

    def read(self, link: Link, domain: DomainHandle, listing: Listing | None = None) -> Domain:
        """One domain with both definitions, all of the same moment as far as `live` and `state` go.

        What a listing tells is not asked again. It may be a moment older than the rest; of whatever changed
        since, but a saved image's removal, libvirt tells, and the domain is read by itself.
        """
        uuid = domain.UUIDString()
        persistent = bool(link.call(domain.isPersistent)) if listing is None else uuid in listing.persistent
        config_xml = link.call(domain.XMLDesc, libvirt.VIR_DOMAIN_XML_INACTIVE) if persistent else None
        known = None if listing is None else listing.states.get(uuid)
        state, live_xml = self._state_and_live_xml(link, domain, uuid, known)
        before = self._said.get(uuid)
        said = self._parsed(uuid, config_xml, live_xml)
        for one in (said.live, said.config):
            if one is not None and one.gap and said is not before:
                log.warning("a virtual machine cannot be read", vm=domain.name(), uuid=uuid, reason=one.gap)
        return Domain(
            vm=Vm(
                name=domain.name(),
                uuid=uuid,
                state=state,
                persistent=persistent,
                managed_save=_managed_save(link, domain) if listing is None else uuid in listing.saved,
            ),
            live=said.live,
            config=said.config,
        )

    def _parsed(self, uuid: str, config_xml: str | None, live_xml: str | None) -> _Said:
        before = self._said.get(uuid, _NOTHING)
        config_digest, live_digest = _digest(config_xml), _digest(live_xml)
        if (config_digest, live_digest) == (before.config_digest, before.live_digest):
            return before
        config = before.config
        if config_digest != before.config_digest:
            config = None if config_xml is None else domain_def(config_xml)
        pool_macs = frozenset[str]() if config_xml is None else network_macs(config_xml)
        live = None if live_xml is None else domain_def(live_xml, pool_macs)
        said = self._said[uuid] = _Said(
            config_digest, live_digest, _with_the_last(config, before.config), _with_the_last(live, before.live)
        )
        return said

    def _state_and_live_xml(
        self, link: Link, domain: DomainHandle, uuid: str, known: int | None
    ) -> tuple[VmState, str | None]:
        # Asked for the XML of a domain that stopped meanwhile, libvirt gives the inactive one without a word.
        for _ in range(_LIVE_XML_TRIES):
            state = link.call(domain.state)[0] if known is None else known
            known = None
            if state == libvirt.VIR_DOMAIN_SHUTOFF:
                return VmState.SHUT_OFF, None
            xml = link.call(domain.XMLDesc)
            if _digest(xml) == self._said.get(uuid, _NOTHING).live_digest or is_running_xml(xml):
                return _ACTIVE.get(state, VmState.RUNNING), xml
            if state == libvirt.VIR_DOMAIN_CRASHED:
                return VmState.CRASHED, None
        raise HypervisorError(libvirt.VIR_ERR_OPERATION_INVALID, "the domain starts and stops faster than it is read")


def _with_the_last(read: DomainDef | None, before: DomainDef | None) -> DomainDef | None:
    """What cannot be read now holds at least what it held."""
    if read is None or before is None or not read.gap:
        return read
    return replace(before, gap=read.gap)


def _digest(xml: str | None) -> bytes:
    return b"" if xml is None else hashlib.blake2b(xml.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _managed_save(link: Link, domain: DomainHandle) -> bool:
    try:
        return bool(link.call(domain.hasManagedSaveImage))
    except HypervisorError as error:
        # A driver without saved images has none.
        if error.code == libvirt.VIR_ERR_NO_SUPPORT:
            return False
        raise
