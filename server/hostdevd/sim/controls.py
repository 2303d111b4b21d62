"""What happens behind hostdevd's back: hands on plugs, other tools at libvirt, guests and the host itself.

For tests, and for an operator who plays with a simulated host. Everything is by name and takes effect at
once; events come as from the real thing.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from lxml import etree

from hostdevd.core.addresses import UsbAddress
from hostdevd.core.model import HostUse, HostUseKind, UsbFacts, VmState
from hostdevd.core.ports import HostChanged, NodeDeviceChanged, Target
from hostdevd.sim import lifecycle, networks
from hostdevd.sim.attachment import attach_config, attach_live, detach_config
from hostdevd.sim.extras import Fault, GuestBehaviour, Unplug
from hostdevd.sim.hypervisor import SimHypervisor
from hostdevd.sim.injection import Faults
from hostdevd.sim.kernel import VFIO
from hostdevd.sim.moving import Moves, move
from hostdevd.sim.passthrough import restart_libvirt
from hostdevd.sim.simdomain import SimDomain
from hostdevd.sim.simnetwork import SimNetwork
from hostdevd.sim.unplug import Guests
from hostdevd.sim.world import World
from hostdevd.virt.xml.nodedev import node_device
from hostdevd.virt.xml.parser import parse


class Controls:
    """The hands on one simulated host."""

    def __init__(self, world: World, guests: Guests, hypervisor: SimHypervisor, faults: Faults) -> None:
        self.world = world
        self._guests = guests
        self._hypervisor = hypervisor
        self._faults = faults

    # --- devices -------------------------------------------------------------------------------------

    def unplug_device(self, name: str) -> list[str]:
        """Pull a device out with all below it; the names that went. Domains keep their stale entries."""
        with self.world.changing():
            return self.world.kernel.unplug(name)

    def plug_device(self, xml: str) -> str:
        """Plug a device in by its node device document, new or again; its name."""
        with self.world.changing():
            return self.world.kernel.plug(xml)

    def replug(self, name: str, port: str = "") -> list[str]:
        """Plug a device that was pulled out in again, with what was below it; USB devices get a new number.

        `port`: into another port, as sysfs names it (`2-5`).
        """
        kernel = self.world.kernel
        if port:
            moves = Moves(ports={(kernel.devices[name].node.path or "").rpartition("/")[2]: port})
            with self.world.changing():
                move(self.world, moves)
            name = moves.of_name(name)
        below = [each for each, device in kernel.devices.items() if not device.plugged and self._is_below(each, name)]
        with self.world.changing():
            for each in [name, *sorted(below, key=self._depth)]:
                kernel.plug(self._renumbered(kernel.devices[each].xml))
        return [name, *below]

    def renumber(self, moves: Moves) -> None:
        """Devices come back with other numbers without a reboot, as after a re-scan; domains keep their entries."""
        with self.world.changing():
            for name in sorted(move(self.world, moves)):
                self.world.emit(NodeDeviceChanged(name))

    def set_driver(self, name: str, driver: str | None, override: str | None = None) -> None:
        """Bind a PCI function by hand through sysfs; no node device event."""
        with self.world.changing():
            device = self.world.kernel.device(name)
            with self.world.kernel.watching(device.node):
                device.driver, device.override = driver, override
            self.world.emit(HostChanged(device.node.path or ""))

    def bind_to_vfio(self, name: str) -> None:
        """An operator gives a function to vfio-pci for good."""
        self.set_driver(name, VFIO, VFIO)

    def add_use(self, name: str, kind: HostUseKind, detail: str = "") -> None:
        """The host begins to use a device: a mount, an address."""
        with self.world.changing():
            self.world.uses[name] = (*self.world.uses.get(name, ()), HostUse(kind, detail))
            self.world.emit(HostChanged(self.world.kernel.device(name).node.path or ""))

    def remove_uses(self, name: str) -> None:
        """The host stops using a device."""
        with self.world.changing():
            self.world.uses.pop(name, None)
            self.world.emit(HostChanged(self.world.kernel.device(name).node.path or ""))

    # --- domains, as virsh would ---------------------------------------------------------------------

    def start_domain(self, name: str) -> None:
        """Start from the configuration."""
        lifecycle.start(self.world, self._uuid(name))

    def destroy_domain(self, name: str) -> None:
        """End the guest at once; a transient domain is gone."""
        lifecycle.stop(self.world, self._uuid(name))

    shutdown_domain = crash_domain = destroy_domain
    """However a guest ends, libvirt gives back the same way (`on_crash` is destroy)."""

    def reboot_domain(self, name: str) -> None:
        """The guest reboots and forgets unanswered unplug requests."""
        lifecycle.reboot(self.world, self._uuid(name))

    def set_domain_state(self, name: str, state: VmState) -> None:
        """Pause, suspend or resume a guest."""
        lifecycle.set_state(self.world, self._uuid(name), state)

    def set_managed_save(self, name: str, *, present: bool = True) -> None:
        """A managed save image appears or goes; libvirt tells nobody."""
        with self.world.changing():
            self.world.named(name).managed_save = present

    def define_domain(self, xml: str) -> str:
        """Define a domain, or its configuration anew; its UUID."""
        root = parse(xml)
        name = root.findtext("name", "").strip()
        own = root.findtext("uuid") or ""
        found = next((each for each in self.world.domains.values() if each.name == name or each.uuid == own), None)
        if found is None:
            found = SimDomain(name, own or str(uuid.uuid4()), VmState.SHUT_OFF, None, None)
        lifecycle.define(self.world, found, xml)
        return found.uuid

    def undefine_domain(self, name: str) -> None:
        """Remove the configuration."""
        lifecycle.undefine(self.world, self._uuid(name))

    def virsh_attach(self, name: str, xml: str, target: Target) -> None:
        """`virsh attach-device NAME FILE --live|--config`: no event in libvirt 9.0.0 for `--config`."""
        found = self._uuid(name)
        if target is Target.CONFIG:
            attach_config(self.world, found, xml)
        else:
            self._guests.attached(found, attach_live(self.world, found, xml))

    def virsh_detach(self, name: str, alias: str, target: Target) -> None:
        """`virsh detach-device-alias NAME ALIAS --live|--config`."""
        found = self._uuid(name)
        if target is Target.CONFIG:
            detach_config(self.world, found, alias)
        else:
            self._guests.ask(found, alias)

    def set_guest_behaviour(
        self, name: str, unplug: Unplug | str = Unplug.IMMEDIATE, delay_s: float = 1.0, eject_after_s: float = -1.0
    ) -> None:
        """How the guest answers from now on."""
        with self.world.changing():
            self.world.behaviour[self.world.named(name).name] = GuestBehaviour(Unplug(unplug), delay_s, eject_after_s)

    # --- networks, as virsh would --------------------------------------------------------------------

    def define_network(self, xml: str) -> None:
        """Define a network that is not active, or its configuration anew."""
        root = parse(xml)
        name, own = (root.findtext(tag, "").strip() for tag in ("name", "uuid"))
        networks.define(self.world, SimNetwork(name, own or str(uuid.uuid4()), xml, active=False))

    def start_network(self, name: str) -> None:
        """Start a network: its pool is the network's from now on."""
        networks.set_active(self.world, name, active=True)

    def destroy_network(self, name: str) -> None:
        """Stop a network; it stays defined, and guests keep what they have of its pool."""
        networks.set_active(self.world, name, active=False)

    # --- libvirt and the host ------------------------------------------------------------------------

    def disconnect(self, why: str = "the simulated libvirt daemon is away") -> None:
        """The connection to libvirt breaks; the guests run on."""
        self._hypervisor.cut(why)

    def reconnect(self, *, restarted: bool = True) -> None:
        """The daemon is back; `restarted`: it forgot which functions somebody had nodedev-detached."""
        if restarted:
            restart_libvirt(self.world)
        self._hypervisor.restore()

    def fail_next(  # noqa: PLR0913  a fault's fields
        self,
        call: str,
        code: int = 1,
        text: str = "internal error: injected by the simulation",
        *,
        nth: int = 1,
        domain: str = "",
        device: str = "",
        after: bool = False,
        gone: bool = False,
    ) -> None:
        """Inject an error at the nth next call of this name (fields as in `[[faults]]`)."""
        self._faults.arm(Fault(call, nth, code, text, domain, device, after, gone))

    def reboot_host(self, boot_id: str | None = None, moves: Moves | None = None) -> str:
        """The machine reboots: guests end without events, drivers as at boot, libvirt anew; the new boot id.

        With `moves` PCI buses or SCSI hosts have other numbers afterwards.
        """
        self._hypervisor.cut("the host reboots")
        lifecycle.reboot_host(self.world, boot_id or str(uuid.uuid4()), moves or Moves())
        self._hypervisor.restore()
        return self.world.boot_id

    def domain_xml(self, name: str, target: Target) -> str | None:
        """`virsh dumpxml NAME [--inactive]`."""
        domain = self.world.named(name)
        return domain.config if target is Target.CONFIG else domain.live

    @property
    def roles(self) -> Mapping[str, str]:
        """Names for tests: role to node device."""
        return self.world.extras.roles

    # --- small parts ---------------------------------------------------------------------------------

    def _uuid(self, name: str) -> str:
        return self.world.named(name).uuid

    def _is_below(self, name: str, top: str) -> bool:
        return any(each == top for each in self._above(name))

    def _depth(self, name: str) -> int:
        return len(self._above(name))

    def _above(self, name: str) -> list[str]:
        above: list[str] = []
        device = self.world.kernel.devices.get(name)
        while device is not None and device.node.parent is not None and device.node.parent not in above:
            above.append(device.node.parent)
            device = self.world.kernel.devices.get(device.node.parent)
        return above

    def _renumbered(self, xml: str) -> str:
        root = parse(xml)
        facts = node_device(xml).facts
        number = root.find("capability[@type='usb_device']/device")
        if not isinstance(facts, UsbFacts) or number is None:
            return xml
        # The kernel counts on; it does not give a number again that was just used.
        known = (device.node.facts for device in self.world.kernel.devices.values())
        on_bus = (each.address for each in known if isinstance(each, UsbFacts))
        place = UsbAddress(facts.address.bus, max(at.device for at in on_bus if at.bus == facts.address.bus) + 1)
        number.text = str(place.device)
        for node in root.iterfind("devnode[@type='dev']"):
            node.text = f"/dev/bus/usb/{place.bus:03d}/{place.device:03d}"
        return etree.tostring(root, encoding="unicode")
