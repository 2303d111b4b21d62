"""What to call the lab's devices in a table: by role, or by what they are below a role.

libvirt's names carry bus numbers, host numbers and MACs; a label does not: `nic_single`, `nic_single/net`,
`computer/scsi_host`. Devices that nothing tells apart share one: the six ports of `ich9_sata/scsi_host`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hostdev.v1 import device_pb2

# Of every q35 machine, beside what the topology names.
_FIXED = {"computer": "computer", "pci_0000_00_00_0": "host_bridge"}


def labels_of(devices: Iterable[device_pb2.Device], roles: Mapping[str, str]) -> dict[str, str]:
    """The label of every device, by libvirt name. `roles`: role to libvirt name, the topology's own first."""
    named = {name: role for role, name in reversed(list(roles.items()))} | _FIXED
    parents = {device.name: device.parent for device in devices}
    types = {device.name: device.type for device in devices}

    def label(name: str) -> str:
        if name in named:
            return named[name]
        above = parents[name]
        while above not in named:
            above = parents[above]
        return f"{named[above]}/{types[name]}"

    return {name: label(name) for name in parents}
