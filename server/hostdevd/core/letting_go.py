"""What stands in the way of a detach from a running guest (rules.md, Detach 4). Pure functions of the store."""

from __future__ import annotations

from collections.abc import Iterator

from hostdevd.core.addresses import MdevUuid, PciAddress
from hostdevd.core.errors import HostdevError
from hostdevd.core.graph import group_mates_of, source_of
from hostdevd.core.guest import no_pci_hotplug
from hostdevd.core.kernels import lets_go_one_by_one
from hostdevd.core.model import Domain, DomainDef, HolderRole, NodeDevice, PciFacts, Reason
from hostdevd.core.plan import Plan
from hostdevd.core.release import Holding
from hostdevd.core.store import Store


def detach_blockers(store: Store, holding: Holding) -> Iterator[Reason]:
    """Everything that forbids to take the holding from its guest; nothing where only the configuration changes."""
    domain = holding.domain
    if not holding.live or domain is None or domain.live is None:
        return
    sources = {source for node in holding.nodes if (source := source_of(node)) is not None}
    entries = [entry for entry in domain.live.entries if entry.source in sources]
    if any(isinstance(one.source, PciAddress | MdevUuid) and one.role is HolderRole.VISIBLE for one in entries):
        yield from no_pci_hotplug(domain, domain.live.hardware)
    if not lets_go_one_by_one(store.kernel_release()):
        yield from _rebound_one_by_one(store, holding, domain, domain.live)


def blocked_detach(holding: Holding, plan: Plan, kernel: str) -> HostdevError:
    """The error of a real call that its blockers stop."""
    first = plan.blockers[0]
    metadata = {"device": first.subject, "kernel": kernel}
    if holding.domain is not None:
        metadata |= {"vm_name": holding.domain.vm.name, "vm_uuid": holding.domain.vm.uuid}
    if holding.assignment is not None:
        metadata["assignment"] = holding.assignment.name
    return HostdevError(first.code, first.message, metadata=metadata, reasons=plan.blockers)


def _rebound_one_by_one(store: Store, holding: Holding, domain: Domain, live: DomainDef) -> Iterator[Reason]:
    """Libvirt gives each managed function to its driver as it leaves, and never looks at its group.

    Entries are managed where libvirt started the VM with them; hostdevd's own hot-plugged groups are not. That
    a function was on a VFIO driver before the start, so that libvirt leaves it there, cannot be seen here.
    """
    managed = {entry.source for entry in live.entries if entry.managed}
    for node in holding.nodes:
        if not isinstance(node.facts, PciFacts) or node.facts.address not in managed:
            continue
        mates = [mate.name for mate in group_mates_of(store.graph, node) if _is_in(live, mate) and mate != node]
        if mates:
            kernel = store.kernel_release() or "of unknown release"
            yield Reason(
                "HOTPLUG_UNSUPPORTED",
                node.name,
                f"{domain.vm.name} was started with {node.name} and {', '.join(mates)} of one IOMMU group; libvirt"
                f" would give them to the host one by one, which the host's kernel ({kernel}) may not survive",
                "shut the VM down: its devices go back to the host when it stops; or use a kernel from 5.19 on",
            )
            return


def _is_in(live: DomainDef, node: NodeDevice) -> bool:
    source = source_of(node)
    return any(entry.source == source and not entry.missing for entry in live.entries)
