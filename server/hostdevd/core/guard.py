"""What the start guard must know (rules.md, "Start guard"): the content of the file that libvirt's hook reads.

Pure: a store in, a JSON document out. The hook, `deploy/hooks/qemu.d/hostdevd`, is its one reader; it judges
without the service, perhaps in the next boot, so:

- `assigned` says by VM and alias who a configured device is: the identity keys, which hold across boots, and never
  an address, which may be stale. Every open assignment is in it from its intent on, so the file knows an entry
  before libvirt's XML has it; an entry that is leaving stays until its assignment is closed.
- `held` and `consoles` say what a hook cannot see: which running VM has a device, which functions are the host's
  console and not accepted by the policy. They mean this boot alone, and the hook asks the host whether they still
  hold. Mounts, swap, interfaces and the rest it reads itself: they may be younger than any file.
"""

from __future__ import annotations

from collections import defaultdict

from hostdevd.core.addresses import MdevUuid, PciAddress, ScsiAddress, UsbAddress
from hostdevd.core.graph import source_of
from hostdevd.core.model import HostUseKind, PciFacts
from hostdevd.core.store import Store

VERSION = 1
"""Of the document; a hook that does not know it trusts nothing in it."""

_USER_ALIAS = "ua-"
_KINDS: dict[type, str] = {PciAddress: "pci", ScsiAddress: "scsi", UsbAddress: "usb", MdevUuid: "mdev"}


def guard_document(store: Store, boot_id: str) -> dict[str, object]:
    """`{version, boot_id, assigned, held, consoles}`; equal for equal stores.

    `assigned`: `{VM uuid: {alias: {uid, name, keys}}}`. `held`: `{"pci:0000:05:01.0": [{uuid, name, via}]}`, the
    VMs that have the device of that address live. `consoles`: PCI addresses.
    """
    return {
        "version": VERSION,
        "boot_id": boot_id,
        "assigned": _assigned(store),
        "held": _held(store),
        "consoles": sorted(_consoles(store)),
    }


def _assigned(store: Store) -> dict[str, dict[str, object]]:
    found: defaultdict[str, dict[str, object]] = defaultdict(dict)
    for assignment in store.assignments.values():
        if assignment.state.closed:
            continue
        for device in assignment.devices:
            keys = store.identities.keys(device.uid)
            # libvirt keeps no other alias in a configuration; without a key nothing could be told from anything.
            if device.alias.startswith(_USER_ALIAS) and keys:
                told = {"uid": device.uid, "name": device.name, "keys": list(keys)}
                found[assignment.vm.uuid][device.alias] = told
    return dict(found)


def _held(store: Store) -> dict[str, list[dict[str, str]]]:
    found: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for holder in store.holders.values():
        node = store.graph.get(holder.device)
        source = source_of(node) if node is not None and holder.live else None
        if source is not None:
            told = {"uuid": holder.vm.uuid, "name": holder.vm.name, "via": str(holder.via)}
            found[f"{_KINDS[type(source)]}:{source}"].append(told)
    return {key: sorted(holders, key=lambda one: one["uuid"]) for key, holders in found.items()}


def _consoles(store: Store) -> set[str]:
    """Functions that the boot console is on; one that the policy accepts has the use, but no reason."""
    return {
        str(view.node.facts.address)
        for view in store.devices.values()
        if view.host_uses
        and isinstance(view.node.facts, PciFacts)
        and any(use.kind is HostUseKind.PRIMARY_CONSOLE for use in view.host_uses)
        and any(one.code == "HOST_IN_USE" and one.subject == view.name for one in view.eligibility.reasons)
    }
