"""One line for people about a device, from its detail: `Intel Corporation 82574L ...`, `eth0 52:54:...`."""

from __future__ import annotations

from hostdevd.virt.xml.nodedev_derived import nested, number, words
from hostdevd.virt.xml.nodedev_rules import Detail


def _join(*parts: str | None) -> str:
    return " ".join(" ".join(part.split()) for part in parts if part)


def _size(size_bytes: int | None) -> str | None:
    # Decimal units: so disks are sold and labelled.
    if size_bytes is None:
        return None
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:  # noqa: PLR2004
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} PB"


def _vendor_product(detail: Detail) -> str:
    vendor, product = words(detail, "vendor"), words(detail, "product")
    if vendor and product:
        return _join(vendor, product)
    # One name alone says too little: two cards of a vendor differ by the id.
    return _join(vendor, product, words(detail, "id"))


def system(detail: Detail) -> str:
    """The maker and the product."""
    hardware = nested(detail, "hardware") or {}
    return _join(words(hardware, "vendor"), words(detail, "product"))


def pci(detail: Detail) -> str:
    """Vendor and product; where one is unknown, the id and the class too."""
    text = _vendor_product(detail)
    if words(detail, "product"):
        return text
    class_name = words(detail, "class_name")
    return _join(text, f"({class_name})" if class_name else None)


def usb_device(detail: Detail) -> str:
    """Vendor and product, and that it is USB."""
    return _join(_vendor_product(detail), "(usb)")


def usb_interface(detail: Detail) -> str:
    """What the device says of the interface, else the class's name."""
    number_ = number(detail, "number")
    known = words(detail, "description") or words(detail, "class_name") or words(detail, "class_id")
    return _join("interface", None if number_ is None else str(number_), known)


def net(detail: Detail) -> str:
    """The interface and its MAC address."""
    return _join(words(detail, "interface"), words(detail, "address"))


def scsi_host(detail: Detail) -> str:
    """The adapter's number and, on Fibre Channel, its port name."""
    host = number(detail, "host")
    fc_host = nested(detail, "fc_host")
    wwpn = words(fc_host, "wwpn") if fc_host else None
    return _join("SCSI host", None if host is None else str(host), f"(Fibre Channel {wwpn})" if wwpn else None)


def scsi_target(detail: Detail) -> str:
    """The target and its remote port."""
    rport = nested(detail, "rport")
    return _join("SCSI", words(detail, "target"), words(rport, "name") if rport else None)


def scsi(detail: Detail) -> str:
    """The type and the address."""
    return _join("SCSI", words(detail, "type") or "unit", words(detail, "address"))


def scsi_generic(detail: Detail) -> str:
    """The character device."""
    return _join("SCSI generic", words(detail, "char"))


def storage(detail: Detail) -> str:
    """The maker, the model and the size; the medium's size where that is what there is."""
    size = number(detail, "size")
    medium = nested(detail, "removable")
    if size is None and medium:
        size = number(medium, "media_size")
    known = _join(words(detail, "vendor"), words(detail, "model")) or words(detail, "block")
    return _join(known, _size(size))


def drm(detail: Detail) -> str:
    """The type of node."""
    return _join("DRM", words(detail, "type"), "node")


def mdev(detail: Detail) -> str:
    """The type and the parent's address."""
    parent = words(detail, "parent_addr")
    return _join("mediated device", words(detail, "type_id"), f"on {parent}" if parent else None)


def ccw(detail: Detail) -> str:
    """The address."""
    return _join("channel device", words(detail, "address"))


def ccwgroup(detail: Detail) -> str:
    """The card, where known, and the address."""
    qeth = nested(detail, "qeth_generic") or nested(detail, "qeth_layer2") or nested(detail, "qeth_layer3")
    return _join(words(qeth, "card_type") if qeth else None, "channel device group", words(detail, "address"))


def css(detail: Detail) -> str:
    """The address."""
    return _join("subchannel", words(detail, "address"))


def ap_card(detail: Detail) -> str:
    """The adapter."""
    return _join("crypto adapter", words(detail, "address"))


def ap_queue(detail: Detail) -> str:
    """Adapter and domain."""
    return _join("crypto queue", words(detail, "address"))


def ap_matrix(_: Detail) -> str:
    """There is one in a host."""
    return "crypto matrix"


def vdpa(detail: Detail) -> str:
    """The character device."""
    return _join("vDPA", words(detail, "chardev"))
