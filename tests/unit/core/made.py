"""Devices and domains made by hand, for the rules that are pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from hostdevd.core.addresses import DeviceSource, MdevUuid, PciAddress, ScsiAddress, UsbAddress
from hostdevd.core.eligibility import Surroundings, reasons
from hostdevd.core.graph import DeviceGraph
from hostdevd.core.identity import Identities
from hostdevd.core.model import (
    Domain,
    DomainDef,
    DomainEntry,
    GuestHardware,
    HolderRole,
    HolderVia,
    MdevFacts,
    NodeDevice,
    PciFacts,
    ScsiController,
    ScsiFacts,
    StorageFacts,
    UsbFacts,
    UsbInterfaceFacts,
    Vm,
    VmState,
)
from hostdevd.core.past import Lives
from hostdevd.core.ports import DriverState, IdentityFacts
from hostdevd.core.profiles import DEFAULT
from hostdevd.core.store import Senses, Store

NIC = 0x020000


def pci(  # noqa: PLR0913  a function's facts
    at: str,
    *,
    class_code: int | None = NIC,
    group: int | None = 1,
    header: str | None = "endpoint",
    parent: str | None = None,
    pf: str | None = None,
    vfs: tuple[str, ...] = (),
    listed: tuple[str, ...] = (),
    driver: str | None = "e1000e",
) -> NodeDevice:
    address = PciAddress.parse(f"0000:{at}")
    facts = PciFacts(
        address,
        class_code,
        0x8086,
        0x10D3,
        iommu_group=group,
        iommu_addresses=tuple(PciAddress.parse(f"0000:{one}") for one in listed),
        header_type=header,
        express=True,
        phys_function=PciAddress.parse(f"0000:{pf}") if pf else None,
        virt_functions=tuple(PciAddress.parse(f"0000:{one}") for one in vfs),
    )
    name = "pci_0000_" + at.replace(":", "_").replace(".", "_")
    return NodeDevice(name, "pci", parent, f"/sys/devices/pci0000:00/0000:{at}", driver=driver, facts=facts)


def usb(name: str, device: int, *, product: int = 1, parent: str | None = None) -> NodeDevice:
    return NodeDevice(
        name, "usb_device", parent, f"/sys/{name}", facts=UsbFacts(UsbAddress(1, device), 0x1234, product)
    )


def usb_interface(name: str, parent: str, interface_class: int) -> NodeDevice:
    return NodeDevice(name, "usb_interface", parent, facts=UsbInterfaceFacts(interface_class))


def lun(name: str, number: int = 0, parent: str | None = None) -> NodeDevice:
    return NodeDevice(name, "scsi", parent, f"/sys/{name}", facts=ScsiFacts(ScsiAddress(2, 0, 0, number)))


def disk(name: str, parent: str, block: str) -> NodeDevice:
    return NodeDevice(name, "storage", parent, f"/sys/{parent}/{name}", facts=StorageFacts(block))


def mdev(name: str, parent: str, group: int = 40) -> NodeDevice:
    facts = MdevFacts(MdevUuid("4b20d080-1b54-4048-85b3-a6a62d165c01"), group)
    return NodeDevice(name, "mdev", parent, f"/sys/{name}", facts=facts)


def codes(device: NodeDevice, *others: NodeDevice, around: Surroundings | None = None) -> list[str]:
    """Why a device among others may not be assigned."""
    around = around or Surroundings(DeviceGraph([device, *others]))
    return [reason.code for reason in reasons(around, device)]


def entry(
    source: DeviceSource, alias: str | None = None, *, missing: bool = False, managed: bool = True
) -> DomainEntry:
    return DomainEntry(HolderVia.HOSTDEV, source, alias, managed=managed, role=HolderRole.VISIBLE, missing=missing)


HARDWARE = GuestHardware(
    "pc-q35-7.2",
    pcie=True,
    free_pcie_slots=4,
    free_pci_slots=2,
    usb_controller=True,
    scsi_controllers=(ScsiController(0, "virtio-scsi"),),
)


def domain(
    name: str,
    live: tuple[DomainEntry, ...] | None = None,
    config: tuple[DomainEntry, ...] | None = (),
    hardware: GuestHardware = HARDWARE,
    *,
    managed_save: bool = False,
) -> Domain:
    uuid = f"00000000-0000-4000-8000-{abs(hash(name)) % 10**12:012d}"
    state = VmState.SHUT_OFF if live is None else VmState.RUNNING
    return Domain(
        Vm(name, uuid, state, config is not None, managed_save),
        DomainDef(live, hardware) if live is not None else None,
        DomainDef(config, hardware) if config is not None else None,
    )


class Drivers:
    """What sysfs would say; `bound` by address."""

    def __init__(self) -> None:
        self.bound: dict[PciAddress, DriverState] = {}

    def __call__(self, address: PciAddress) -> DriverState:
        return self.bound.get(address, DriverState(present=True, driver="e1000e"))


def store(identities: Mapping[str, IdentityFacts] | None = None, drivers: Drivers | None = None) -> Store:
    told = identities or {}
    senses = Senses(
        driver=drivers or Drivers(),
        identity=lambda device: told.get(device.name, IdentityFacts()),
        block_paths=lambda _: (),
        now=lambda: 1000.0,
        monotonic=lambda: 1000.0,
    )
    return Store(senses, Identities(), DEFAULT, lives=Lives("e", "life"), revision=0)
