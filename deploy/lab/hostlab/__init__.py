"""The virtual VFIO host: boots it outside, serves and describes it inside.

Modules that run outside: ``run``, ``up``, ``remote``, ``machine``, ``qemu``, ``kernel``,
``initramfs``, ``prerequisites``. Inside the lab: ``agent``, ``bringup``, ``guests``,
``lookup``, ``shell``, ``qmp``. Both sides: ``topology``, ``wire``, ``errors``.
Standard library only, because it must start before anything is installed.
"""
