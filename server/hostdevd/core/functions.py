"""How many virtual functions a physical one has: set, as long as none of them is in use.

The kernel is the truth for the number and libvirt for the list, so a call that repeats another goes on from what is
there: a hostdevd that was killed in the middle leaves nothing to be finished or undone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

import structlog

from hostdevd.core import preflight
from hostdevd.core.audit import Entry
from hostdevd.core.audit_log import AuditLog
from hostdevd.core.drivers import is_vfio_driver
from hostdevd.core.errors import HostdevError, invalid_field
from hostdevd.core.failures import device_in_work
from hostdevd.core.hostwork import HostWorks, Looks, before
from hostdevd.core.model import NodeDevice, PciFacts, Reason, Vm
from hostdevd.core.planner import find_device, find_target
from hostdevd.core.ports import FunctionCounts, FunctionsError, FunctionsFault, HostPort
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync
from hostdevd.core.views import DeviceView

log = structlog.get_logger()

CALL = "SetVirtualFunctions"

LOOK_AGAIN_S = 1.0
"""How often libvirt is asked for functions that it has not told of: udev, by which it learns of them, may be slow."""

_USES = frozenset({"HOST_IN_USE", "HOST_USE_UNKNOWN"})

_FAULTS = {
    FunctionsFault.NO_HELPER: "FEATURE_DISABLED",
    FunctionsFault.NOT_ALLOWED: "BROKER_NOT_AUTHORIZED",
    FunctionsFault.IN_USE: "VFS_IN_USE",
    FunctionsFault.FAILED: "HYPERVISOR_UNSUPPORTED",
}


class VirtualFunctions:
    """`SetVirtualFunctions` on one host."""

    def __init__(  # noqa: PLR0913, PLR0917  the parts, each once
        self, store: Store, sync: Sync, works: HostWorks[None], host: HostPort, looks: Looks, audit: AuditLog
    ) -> None:
        self._audit = audit
        self._store = store
        self._sync = sync
        self._works = works
        self._host = host
        self._looks = looks

    async def set(self, device: str, count: int, until: float | None, entry: Entry) -> DeviceView:
        """Have `count` of them, and libvirt list them; the physical function then. `until` is the loop's time."""
        pf = find_target(self._store, device)
        request = self._store.identities.uid(pf.name), count
        work = self._works.running(request)
        if work is None:
            self._works.check_free((pf, *functions_of(self._store, pf)))
            work = self._works.begin(CALL, request, pf, self._change(pf, count, entry))
        await self._works.result(work, until)
        return await before(until, self._listed(pf.name, count), device_in_work(CALL, pf.name))

    async def _change(self, pf: NodeDevice, count: int, entry: Entry) -> None:
        try:
            facts, counts = await self._counts(pf)
        except FunctionsError as error:
            raise _refused(pf, count, error) from error
        if count > counts.total:
            raise invalid_field("count", f"must be at most {counts.total}, as many as {pf.name} can have")
        if count == counts.now:
            return
        async with self._audit.work(entry, pf.name):
            await self._set(pf, facts, count, was=counts.now)

    async def _set(self, pf: NodeDevice, facts: PciFacts, count: int, *, was: int) -> None:
        await self._looks.fresh()
        pf = find_device(self._store, pf.name)
        await self._looks.compare((pf, *functions_of(self._store, pf)))
        # From here to the helper nothing is awaited, and attaches are kept off since the work began.
        self._check_unused(pf)
        try:
            await self._host.set_functions(facts.address, count)
        except FunctionsError as error:
            raise await self._failed(pf, facts, count, error) from error
        log.info("virtual functions were set", device=pf.name, before=was, now=count)

    async def _counts(self, pf: NodeDevice) -> tuple[PciFacts, FunctionCounts]:
        facts = pf.facts
        counts = await self._host.functions(facts.address) if isinstance(facts, PciFacts) else None
        if not isinstance(facts, PciFacts) or counts is None:
            raise invalid_field("device", f"{pf.name} cannot have virtual functions (it has no SR-IOV)")
        return facts, counts

    def _check_unused(self, pf: NodeDevice) -> None:
        """A VM that has the device itself would get a driver's new functions below it, or lose them."""
        held = tuple(preflight.holdings(self._store, pf.name))
        used = {name: tuple(self._in_use(name)) for name in function_names(self._store, pf)}
        found = [*held, *(one for reasons in used.values() for one in reasons)]
        if not found:
            return
        metadata = {"device": pf.name, "functions": ",".join(name for name, reasons in used.items() if reasons)}
        vm = next((vm for _, vm in found if vm is not None), None)
        if vm is not None:
            metadata |= {"vm_name": vm.name, "vm_uuid": vm.uuid}
        reasons = tuple(dict.fromkeys(reason for reason, _ in found))
        more = f" (and {len(reasons) - 1} more reason{'s' if len(reasons) > 2 else ''})" if len(reasons) > 1 else ""  # noqa: PLR2004  more than one more
        text = f"the number of virtual functions of {pf.name} cannot be changed: {reasons[0].message}{more}"
        raise HostdevError("HELD_BY_OTHER_VM" if held else "VFS_IN_USE", text, metadata=metadata, reasons=reasons)

    def _in_use(self, name: str) -> Iterable[tuple[Reason, Vm | None]]:
        """Why a virtual function may not go: a VM has it, the host uses it, or it is bound for a VM to come."""
        held = tuple(preflight.holdings(self._store, name))
        yield from held
        self._store.catch_up(name)
        view = self._store.devices.get(name)
        if view is None:
            return
        uses = [reason for reason in view.eligibility.reasons if reason.code in _USES]
        yield from ((reason, None) for reason in uses)
        facts = view.node.facts
        if held or uses or not isinstance(facts, PciFacts):
            return
        driver = self._host.driver(facts.address).driver
        if is_vfio_driver(driver):
            text = f"{name} is bound to {driver}, though no virtual machine has it"
            yield Reason("VFS_IN_USE", name, text, f"give it back to the host: virsh nodedev-reattach {name}"), None

    async def _failed(self, pf: NodeDevice, facts: PciFacts, count: int, error: FunctionsError) -> HostdevError:
        """The same with what there is now, where something was done or may have been."""
        failed = _refused(pf, count, error)
        counts = await self._host.functions(facts.address) if error.fault is FunctionsFault.FAILED else None
        if counts is None:
            return failed
        return HostdevError(
            failed.reason,
            f"{failed.message}; it has {counts.now} now",
            metadata=failed.metadata | {"count_now": str(counts.now)},
        )

    async def _listed(self, name: str, count: int) -> DeviceView:
        """The physical function, once libvirt lists with it what the kernel has."""
        changed = asyncio.Event()

        def hear(_: int) -> None:
            changed.set()

        self._store.on_commit.append(hear)
        try:
            while True:
                changed.clear()
                await self._sync.read_again((name,))
                pf = find_device(self._store, name)
                # A function that is not listed yet is an address here.
                names = function_names(self._store, pf)
                if len(names) == count and all(one in self._store.devices for one in names):
                    return self._store.devices[pf.name]
                _, counts = await self._counts(pf)
                if counts.now != count:  # another call's, or somebody's at the host
                    raise device_in_work(CALL, name)
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), LOOK_AGAIN_S)
        finally:
            self._store.on_commit.remove(hear)


def _refused(pf: NodeDevice, count: int, error: FunctionsError) -> HostdevError:
    log.warning("virtual functions were not set", device=pf.name, count=count, why=error.text)
    reason = _FAULTS[error.fault]
    text = f"the number of virtual functions of {pf.name} was not set to {count}: {error.text}"
    reasons = (Reason(reason, pf.name, error.text),) if error.fault is FunctionsFault.IN_USE else ()
    return HostdevError(
        reason, text, metadata={"device": pf.name, "count": str(count), "why": error.text}, reasons=reasons
    )


def functions_of(store: Store, pf: NodeDevice) -> tuple[NodeDevice, ...]:
    """The virtual functions of a device that libvirt lists."""
    return tuple(store.graph.nodes[name] for name in function_names(store, pf) if name in store.graph)


def function_names(store: Store, pf: NodeDevice) -> tuple[str, ...]:
    """Libvirt's names of a device's virtual functions; the address of one that it does not list."""
    addresses = store.graph.virtual_functions(pf.facts) if isinstance(pf.facts, PciFacts) else ()
    return tuple(name for address in addresses for name in (store.graph.at(address) or (str(address),)))
