"""hostdevd: assigns a KVM/libvirt host's devices to virtual machines and takes them back, safely."""

__version__ = "0.1.0"
