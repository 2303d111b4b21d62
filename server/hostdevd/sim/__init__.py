"""The simulated host: the same ports and the same rules as a real one, without hardware.

nodefile, extras    what the host is: libvirt's test-driver file, and what that file cannot say
kernel              devices, drivers, IOMMU groups
world               the machine with its domains, as one state
passthrough         libvirt's way with host devices: bind, check, give back
attachment          adding hostdevs to domains and taking them away
lifecycle           starting and stopping domains and the host
unplug              the guests that answer unplug requests, or do not
hypervisor, host    the ports
controls            what happens behind hostdevd's back
persist             the state across restarts
simulation          puts these together
"""
