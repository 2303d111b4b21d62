"""A domain's document as libvirt keeps it: addresses given, aliases given, controllers there.

Only what host devices need of it: a slot of the right kind, a USB port, a SCSI controller.
"""

from __future__ import annotations

from collections.abc import Iterator

from lxml import etree

from hostdevd.core.model import GuestHardware
from hostdevd.sim.faults import ErrorNumber, refusal
from hostdevd.virt.xml.hardware import guest_hardware
from hostdevd.virt.xml.numbers import number
from hostdevd.virt.xml.parser import parse
from hostdevd.virt.xml.sources import pci_address

_PCIE_PORTS = frozenset({"pcie-root-port", "pcie-switch-downstream-port"})
_CONVENTIONAL_FIRST_SLOT = {"pci-root": 3, "pci-bridge": 1, "pcie-to-pci-bridge": 1}
_SLOTS = range(32)
_USB_PORTS = {"qemu-xhci": 4, "nec-xhci": 4, "ich9-ehci1": 6}
"""libvirt's numbers where `ports` is not told; others have 2."""
_DEFAULT_ROOT_PORTS = 4
_MAX_INDEX = 255


class GuestXml:
    """One document, to be changed and printed again."""

    def __init__(self, xml: str) -> None:
        self.root = parse(xml)
        devices = self.root.find("devices")
        self.devices = etree.SubElement(self.root, "devices") if devices is None else devices

    def text(self) -> str:
        """The document."""
        return etree.tostring(self.root, encoding="unicode")

    @property
    def hardware(self) -> GuestHardware:
        """Slots and controllers, read as everybody reads them."""
        return guest_hardware(self.root)

    # --- elements by alias ---------------------------------------------------------------------------

    def by_alias(self, alias: str) -> etree._Element | None:
        """The device element with this alias."""
        for element in self.devices:
            told = element.find("alias")
            if told is not None and told.get("name") == alias:
                return element
        return None

    def remove(self, element: etree._Element) -> None:
        """Take a device element out."""
        self.devices.remove(element)

    def set_aliases(self) -> None:
        """Every hostdev, interface and disk without an alias gets libvirt's: `hostdev0`, `net0`, ..."""
        prefixes = {"hostdev": "hostdev", "interface": "net", "disk": "disk"}
        for element in self.devices:
            prefix = prefixes.get(str(element.tag))
            if prefix is None or element.find("alias") is not None:
                continue
            place = next(n for n in range(len(self.devices)) if self.by_alias(f"{prefix}{n}") is None)
            etree.SubElement(element, "alias", name=f"{prefix}{place}")

    def strip_runtime(self) -> None:
        """Leave what an inactive document has: no id, no libvirt's own aliases."""
        self.root.attrib.pop("id", "")
        for element in self.devices:
            alias = element.find("alias")
            if alias is not None and not (alias.get("name") or "").startswith("ua-"):
                element.remove(alias)

    # --- addresses -----------------------------------------------------------------------------------

    def complete(self) -> None:
        """Add the controllers that libvirt adds to a definition that has none.

        A definition that says nothing of features is of a guest as virt-install makes it, with ACPI. The
        test driver's domains stand for what this machine runs.
        """
        if self.root.get("type") == "test":
            self.root.set("type", "kvm")
        if self.root.find("features") is None:
            etree.SubElement(etree.SubElement(self.root, "features"), "acpi")
        if self.devices.find("controller[@type='pci']") is None:
            pcie = self.hardware.pcie
            self._controller("pci", "pcie-root" if pcie else "pci-root", index=0)
            for _ in range(_DEFAULT_ROOT_PORTS if pcie else 0):
                self._add_pci("pcie-root-port")
        if self.devices.find("controller[@type='usb']") is None:
            self._controller("usb", "qemu-xhci" if self.hardware.pcie else "piix3-uhci", index=0)

    def place_pci(self, element: etree._Element, *, express: bool, grow: bool) -> None:
        """Give a free slot; with `grow` (a definition, not a running guest) ports are added as needed.

        An express function goes to a conventional slot only in a guest without PCI Express.
        """
        if element.find("address") is not None:
            return
        models = _PCIE_PORTS if express and self.hardware.pcie else frozenset(_CONVENTIONAL_FIRST_SLOT)
        slot = next(self._free_slots(models), None)
        if slot is None and grow and self.hardware.pcie:
            self._add_pci("pcie-root-port")
            if not models & _PCIE_PORTS:
                # It stands in the new port, or in one that was free.
                self._add_pci("pcie-to-pci-bridge")
            slot = next(self._free_slots(models), None)
        if slot is None:
            raise refusal(ErrorNumber.INTERNAL_ERROR, "No more available PCI slots")
        element.append(_pci(*slot))

    def place_usb(self, element: etree._Element) -> None:
        """Give a free port of a USB controller."""
        if element.find("address") is not None:
            return
        used = {
            (address.get("bus"), (address.get("port") or "").partition(".")[0])
            for address in self.devices.iterfind("*/address[@type='usb']")
        }
        for controller in self.devices.iterfind("controller[@type='usb']"):
            model, bus = controller.get("model", ""), controller.get("index", "0")
            if model == "none":
                continue
            ports = number(controller.get("ports"), _MAX_INDEX) or _USB_PORTS.get(model, 2)
            for port in map(str, range(1, ports + 1)):
                if (bus, port) not in used:
                    etree.SubElement(element, "address", type="usb", bus=bus, port=port)
                    return
        raise refusal(ErrorNumber.INTERNAL_ERROR, "No free USB ports")

    def check_drive(self, element: etree._Element, drive: tuple[int, int, int, int], *, grow: bool) -> None:
        """The drive address must be free; a controller that is not there is silently added."""
        controllers = {controller.index: controller for controller in self.hardware.scsi_controllers}
        wanted = controllers.get(drive[0])
        if wanted is None:
            # libvirt's default model on x86, a conventional function; the rollback of an attach leaves it.
            controller = self._controller("scsi", "lsilogic", index=drive[0])
            self.place_pci(controller, express=False, grow=grow)
        elif drive[1:] in wanted.used and element.getparent() is None:
            raise refusal(ErrorNumber.OPERATION_INVALID, "Domain already contains a disk with that address")

    def _free_slots(self, models: frozenset[str]) -> Iterator[tuple[int, int]]:
        taken = set()
        for address in self.devices.iterfind("*/address[@type='pci']"):
            place = pci_address(address)
            if place is not None:
                taken.add((place.bus, place.slot))
        for controller in self.devices.iterfind("controller[@type='pci']"):
            index, model = number(controller.get("index"), _MAX_INDEX), controller.get("model", "")
            target = controller.find("target")
            if index is None or model not in models or (target is not None and target.get("hotplug") == "off"):
                continue
            slots = _SLOTS[:1] if model in _PCIE_PORTS else _SLOTS[_CONVENTIONAL_FIRST_SLOT[model] :]
            yield from ((index, slot) for slot in slots if (index, slot) not in taken)

    # --- controllers ---------------------------------------------------------------------------------

    def _add_pci(self, model: str) -> None:
        indexes = [
            number(each.get("index"), _MAX_INDEX) or 0 for each in self.devices.iterfind("controller[@type='pci']")
        ]
        index = max(indexes, default=-1) + 1
        # Ports sit on the root complex, eight functions to a slot; a bridge sits in a port.
        if model == "pcie-root-port":
            slot, function = divmod(index - 1, 8)
            controller = self._controller("pci", model, index=index)
            etree.SubElement(controller, "model", name="pcie-root-port")
            etree.SubElement(controller, "target", chassis=str(index), port=f"0x{0x10 + index - 1:x}")
            controller.append(_pci(0, 2 + slot, function))
            if function == 0:
                controller[-1].set("multifunction", "on")
        else:
            place = next(self._free_slots(_PCIE_PORTS))
            controller = self._controller("pci", model, index=index)
            etree.SubElement(controller, "model", name="pcie-pci-bridge")
            controller.append(_pci(*place))

    def _controller(self, kind: str, model: str, index: int) -> etree._Element:
        return etree.SubElement(self.devices, "controller", type=kind, index=str(index), model=model)


def _pci(bus: int, slot: int, function: int = 0) -> etree._Element:
    return etree.Element(
        "address", type="pci", domain="0x0000", bus=f"0x{bus:02x}", slot=f"0x{slot:02x}", function=f"0x{function:x}"
    )
