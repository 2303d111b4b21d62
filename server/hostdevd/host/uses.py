"""All that the host uses, put together from its sources; each may fail apart from the others."""

from __future__ import annotations

from hostdevd.core.model import HostUses
from hostdevd.host.block_uses import find_block_uses
from hostdevd.host.findings import Findings
from hostdevd.host.net_uses import Addresses, find_net_uses
from hostdevd.host.pci_uses import find_pci_uses
from hostdevd.host.rtnetlink import host_addresses, shares_network_of_init
from hostdevd.host.sysfs import HostTree

_ALL = "pci"  # a gap about PCI functions is a gap about everything, since everything may be behind one
_MOST_NAMES = 5


def read_uses(tree: HostTree, foreign: frozenset[str] = frozenset()) -> HostUses:
    """What the host uses now. Never raises: what could not be read is in `unknown`.

    `foreign` are interfaces of libvirt's that this host lacks: with any, libvirt is on another host, or in
    another network, and what is read here says nothing of its devices.
    """
    findings = Findings()
    if foreign:
        findings.unknown(_ALL, f"libvirt lists {_named(foreign)}, which the network of process 1 does not have")
    exact: Addresses | None = None
    if tree.live:
        with findings.source(_ALL, "process 1"):
            _require_host_init(tree, findings)
        if shares_network_of_init(tree):
            exact = host_addresses
    find_block_uses(tree, findings)
    find_net_uses(tree, findings, exact)
    find_pci_uses(tree, findings)
    return findings.result()


def _named(interfaces: frozenset[str]) -> str:
    shown = sorted(interfaces)[:_MOST_NAMES]
    rest = len(interfaces) - len(shown)
    more = f" and {rest} more" if rest else ""
    return f"the interface{'s' if len(interfaces) > 1 else ''} {', '.join(shown)}{more}"


def _require_host_init(tree: HostTree, findings: Findings) -> None:
    """In a container with processes of its own, `/proc/1` is the container's first and knows no host.

    The kernel's thread 2 is `kthreadd` on every host and in no such container.
    """
    if tree.require("/proc/2/comm").strip() != "kthreadd":
        findings.unknown(_ALL, "process 1 is a container's and not the host's: share the host's process ids")
