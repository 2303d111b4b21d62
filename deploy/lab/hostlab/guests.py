"""libvirt's XML of the lab's guests."""

from __future__ import annotations

import uuid
from xml.sax.saxutils import escape

from .topology import Guest

# alpha, spare: four ports stay free after the bridge, xhci, virtio-scsi and virtio-serial.
_Q35_PORTS = 9
# A saved guest is known by its UUID, so it must be the same in every lab.
_NAMESPACE = uuid.UUID("6c616221-0000-4000-8000-6775657374ff")
_BASE_CMDLINE = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check"


def domain_xml(guest: Guest) -> str:
    """A domain that boots in seconds and answers PCI hotplug.

    Its ``lab.shell`` channel is a pair of FIFOs, which QEMU keeps open at both ends: the
    guest never sees a hang-up, and a command waits in the FIFO until the guest reads it.
    """
    controllers = _q35_controllers() if guest.machine == "q35" else _pc_controllers()
    cmdline = f"{_BASE_CMDLINE} {guest.cmdline}".strip()
    return f"""<domain type='kvm'>
  <name>{escape(guest.name)}</name>
  <uuid>{uuid.uuid5(_NAMESPACE, guest.name)}</uuid>
  <memory unit='MiB'>{guest.memory_mib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='{escape(guest.machine)}'>hvm</type>
    <kernel>/lab/boot/vmlinuz</kernel>
    <initrd>/lab/boot/guest.cpio</initrd>
    <cmdline>{escape(cmdline)}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='host-passthrough'/>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {controllers}
    <controller type='scsi' index='0' model='virtio-scsi'/>
    <controller type='virtio-serial' index='0'/>
    <serial type='file'><source path='/var/log/lab/guest-{escape(guest.name)}.log'/></serial>
    <channel type='pipe'>
      <source path='/run/lab/guests/{escape(guest.name)}'/>
      <target type='virtio' name='lab.shell'/>
    </channel>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def _q35_controllers() -> str:
    lines = ["<controller type='pci' index='0' model='pcie-root'/>"]
    lines += [f"<controller type='pci' index='{n}' model='pcie-root-port'/>" for n in range(1, _Q35_PORTS + 1)]
    lines += [f"<controller type='pci' index='{_Q35_PORTS + 1}' model='pcie-to-pci-bridge'/>"]
    lines += ["<controller type='usb' index='0' model='qemu-xhci'/>"]
    return "\n    ".join(lines)


def _pc_controllers() -> str:
    return (
        "<controller type='pci' index='0' model='pci-root'/>\n    <controller type='usb' index='0' model='qemu-xhci'/>"
    )
