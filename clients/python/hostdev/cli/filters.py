"""The options that select devices, the same for every command that lists them."""

from __future__ import annotations

from typing import Annotated

import typer

from hostdev.cli import completing
from hostdev.v1 import device_pb2

_MOST = 2**32 - 1  # what the API's number can hold

Types = Annotated[list[str] | None, typer.Option("--type", metavar="TYPE", help="pci, usb_device, scsi, net, …")]
Ids = Annotated[list[str] | None, typer.Option("--id", metavar="VENDOR:PRODUCT", help="8086:100e, 10de:*")]
Classes = Annotated[list[str] | None, typer.Option("--class", metavar="HEX", help="PCI class, or how it begins: 03")]
Drivers = Annotated[list[str] | None, typer.Option("--driver", metavar="NAME", help="The driver that is bound.")]
IommuGroups = Annotated[
    list[int] | None, typer.Option("--group", metavar="N", min=0, max=_MOST, help="Number of IOMMU group.")
]
NumaNodes = Annotated[list[int] | None, typer.Option("--numa", metavar="N", min=0, max=_MOST, help="NUMA node.")]
Parent = Annotated[
    str,
    typer.Option("--parent", metavar="DEVICE", help="Right below this device.", autocompletion=completing.devices),
]
AffectedBy = Annotated[
    str,
    typer.Option(
        "--affected-by",
        metavar="DEVICE",
        help="What the host would lose with this device.",
        autocompletion=completing.devices,
    ),
]
Follow = Annotated[bool, typer.Option("--watch", help="Go on with every change, until interrupted.")]


def device_filter(
    types: list[str] | None = None,
    ids: list[str] | None = None,
    classes: list[str] | None = None,
    drivers: list[str] | None = None,
    iommu_groups: list[int] | None = None,
    numa_nodes: list[int] | None = None,
    parent: str = "",
    affected_by: str = "",
) -> device_pb2.DeviceFilter:
    """Values of one option are alternatives; options must all match."""
    return device_pb2.DeviceFilter(
        types=types or (),
        ids=ids or (),
        pci_classes=classes or (),
        drivers=drivers or (),
        iommu_groups=iommu_groups or (),
        numa_nodes=numa_nodes or (),
        parent=parent,
        affected_by=affected_by,
    )
