"""The libvirt adapter: the only place that knows libvirt, and what implements the hypervisor port with it."""
