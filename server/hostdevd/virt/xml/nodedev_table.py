"""The table: for each capability type of libvirt's which place in the XML fills which field of the API.

A new type is one row here, beside its proto message and its eligibility. A field of the proto that no row
fills fails a test. The rules' language is in `nodedev_rules`; the schema is libvirt's `nodedev.rng` and
what newer libvirt prints (`ccwgroup` and `state` came after 9.0). `tests/corpus` walks the schema of each
libvirt that the distribution serves: a place there without a rule here fails a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hostdevd.core.model import Facts
from hostdevd.virt.xml import nodedev_derived as derived
from hostdevd.virt.xml import nodedev_facts as facts
from hostdevd.virt.xml import nodedev_text as describe
from hostdevd.virt.xml.nodedev_rules import (
    UINT32,
    UINT64,
    Address,
    Detail,
    Field,
    Message,
    Node,
    Present,
    Rule,
    compile_rules,
    decimal,
    either,
    hexadecimal,
    known_size,
    numa_node,
    zero_or_one,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One type: libvirt's capability, the API's `detail` field, its rules, and what is made of the outcome.

    `derived` names the fields that `derive` adds from the detail and `links` from udev's links; `needed` those
    without which the XML cannot be right.
    """

    capability: str
    type: str
    rules: tuple[Rule, ...]
    describe: Callable[[Detail], str]
    facts: Callable[[facts.Source], Facts | None] | None = None
    derive: Callable[[Detail], None] | None = None
    links: Callable[[Detail, Iterable[str]], None] | None = None
    derived: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()


_ID = hexadecimal(UINT32)  # no more than 16 bits in hardware, any number in the schema

_MDEV_TYPES = Message(
    "capability[@type='mdev_types']/type",
    "mdev_types",
    (
        Field("@id", "id"),
        Field("name", "name"),
        Field("deviceAPI", "device_api"),
        Field("availableInstances", "available_instances", decimal()),
    ),
    many=True,
)

_CCW_ADDRESS = (
    Field("cssid", "cssid", either(0xFF)),
    Field("ssid", "ssid", either(0x3)),
    Field("devno", "devno", either(0xFFFF)),
)
_CCW_NEEDED = ("cssid", "ssid", "devno")

_QETH = (Field("card_type", "card_type"), Field("chpid", "chpid"))

_VPD_FIELD = (Field("@index", "index"), Field(".", "value"))

_LINK = (
    Field("@port", "port", decimal()),
    Field("@speed", "speed"),
    Field("@width", "width", decimal()),
)

_BLOCKS = (
    Field("logical_block_size", "logical_block_size", decimal(UINT64)),
    Field("num_blocks", "num_blocks", decimal(UINT64)),
)

ROWS = (
    Row(
        "system",
        "system",
        (
            Field("product", "product"),
            Message(
                "hardware",
                "hardware",
                (
                    Field("vendor", "vendor"),
                    Field("version", "version"),
                    Field("serial", "serial"),
                    Field("uuid", "uuid"),
                ),
            ),
            Message(
                "firmware",
                "firmware",
                (
                    Field("vendor", "vendor"),
                    Field("version", "version"),
                    Field("release_date", "release_date"),
                ),
            ),
        ),
        describe.system,
    ),
    Row(
        "pci",
        "pci",
        (
            Field("class", "class", hexadecimal(0xFFFFFF)),
            Field("domain", "domain", decimal()),
            Field("bus", "bus", decimal()),
            Field("slot", "slot", decimal()),
            Field("function", "function", decimal()),
            Field("product/@id", "product_id", _ID),
            Field("product", "product"),
            Field("vendor/@id", "vendor_id", _ID),
            Field("vendor", "vendor"),
            Message("capability[@type='phys_function']", "phys_function", (Address("address", "address"),)),
            Message(
                "capability[@type='virt_functions']",
                "virt_functions",
                (Field("@maxCount", "max_count", decimal()), Address("address", "addresses", many=True)),
            ),
            Field("capability[@type='pci-bridge']/@type", "header_type"),
            Field("capability[@type='cardbus-bridge']/@type", "header_type"),
            _MDEV_TYPES,
            Message(
                "capability[@type='vpd']",
                "vpd",
                (
                    Field("name", "name"),
                    Message(
                        "fields[@access='readonly']",
                        "readonly",
                        (
                            Field("change_level", "change_level"),
                            Field("manufacture_id", "manufacture_id"),
                            Field("part_number", "part_number"),
                            Field("serial_number", "serial_number"),
                            Message("vendor_field", "vendor_fields", _VPD_FIELD, many=True),
                        ),
                    ),
                    Message(
                        "fields[@access='readwrite']",
                        "readwrite",
                        (
                            Field("asset_tag", "asset_tag"),
                            Message("vendor_field", "vendor_fields", _VPD_FIELD, many=True),
                            Message("system_field", "system_fields", _VPD_FIELD, many=True),
                        ),
                    ),
                ),
            ),
            Message(
                "iommuGroup",
                "iommu_group",
                (Field("@number", "number", decimal()), Address("address", "addresses", many=True)),
            ),
            Field("numa/@node", "numa_node", numa_node),
            Message(
                "pci-express",
                "pci_express",
                (
                    Message("link[@validity='cap']", "link_capability", _LINK),
                    Message("link[@validity='sta']", "link_status", _LINK),
                ),
            ),
        ),
        describe.pci,
        facts.pci,
        derived.pci,
        derived=("address", "id", "class_id", "class_name", "header_type"),
        needed=("domain", "bus", "slot", "function", "vendor_id", "product_id"),
    ),
    Row(
        "usb_device",
        "usb_device",
        (
            Field("bus", "bus", decimal()),
            Field("device", "device", decimal()),
            Field("product/@id", "product_id", _ID),
            Field("product", "product"),
            Field("vendor/@id", "vendor_id", _ID),
            Field("vendor", "vendor"),
        ),
        describe.usb_device,
        facts.usb_device,
        derived.usb_device,
        derived=("id",),
        needed=("bus", "device", "vendor_id", "product_id"),
    ),
    Row(
        "usb",
        "usb_interface",
        (
            Field("number", "number", decimal()),
            Field("class", "class", decimal()),
            Field("subclass", "subclass", decimal()),
            Field("protocol", "protocol", decimal()),
            Field("description", "description"),
        ),
        describe.usb_interface,
        facts.usb_interface,
        derived.usb_interface,
        derived=("class_id", "class_name"),
        needed=("number", "class", "subclass", "protocol"),
    ),
    Row(
        "net",
        "net",
        (
            Field("interface", "interface"),
            Field("address", "address"),
            Message("link", "link", (Field("@speed", "speed", decimal()), Field("@state", "state"))),
            Field("feature/@name", "features", many=True),
            Present("capability[@type='80203']", "ieee80203"),
            Present("capability[@type='80211']", "ieee80211"),
        ),
        describe.net,
        facts.net,
        needed=("interface",),
    ),
    Row(
        "scsi_host",
        "scsi_host",
        (
            Field("host", "host", decimal()),
            Field("unique_id", "unique_id", decimal()),
            Message(
                "capability[@type='fc_host']",
                "fc_host",
                (Field("wwnn", "wwnn"), Field("wwpn", "wwpn"), Field("fabric_wwn", "fabric_wwn")),
            ),
            Message(
                "capability[@type='vport_ops']",
                "vport_ops",
                (Field("max_vports", "max_vports", decimal()), Field("vports", "vports", decimal())),
            ),
            Field("../parent/@wwnn", "parent_wwnn"),
            Field("../parent/@wwpn", "parent_wwpn"),
            Field("../parent/@fabric_wwn", "parent_fabric_wwn"),
        ),
        describe.scsi_host,
        needed=("host",),
    ),
    Row(
        "scsi_target",
        "scsi_target",
        (
            Field("target", "target"),
            Message(
                "capability[@type='fc_remote_port']",
                "rport",
                (Field("rport", "name"), Field("wwpn", "wwpn")),
            ),
        ),
        describe.scsi_target,
        needed=("target",),
    ),
    Row(
        "scsi",
        "scsi",
        (
            Field("host", "host", decimal()),
            Field("bus", "bus", decimal()),
            Field("target", "target", decimal()),
            Field("lun", "lun", decimal(UINT64)),
            Field("type", "type"),
        ),
        describe.scsi,
        facts.scsi,
        derived.scsi,
        derived=("address",),
        needed=("host", "bus", "target", "lun"),
    ),
    Row("scsi_generic", "scsi_generic", (Field("char", "char"),), describe.scsi_generic, needed=("char",)),
    Row(
        "storage",
        "storage",
        (
            Field("block", "block"),
            Field("bus", "bus"),
            Field("drive_type", "drive_type"),
            Field("model", "model"),
            Field("vendor", "vendor"),
            Field("serial", "serial"),
            Field("size", "size", decimal(UINT64)),
            *_BLOCKS,
            Message(
                "capability[@type='removable']",
                "removable",
                (
                    Field("media_available", "media_available", zero_or_one),
                    Field("media_size", "media_size", known_size),
                    Field("media_label", "media_label"),
                    *_BLOCKS,
                ),
            ),
            Present("capability[@type='hotpluggable']", "hotpluggable"),
        ),
        describe.storage,
        facts.storage,
        links=derived.storage_links,
        derived=("wwn",),
        needed=("block",),
    ),
    Row("drm", "drm", (Field("type", "type"),), describe.drm, needed=("type",)),
    Row(
        "mdev",
        "mdev",
        (
            Field("type/@id", "type_id"),
            Field("uuid", "uuid"),
            Field("parent_addr", "parent_addr"),
            Field("iommuGroup/@number", "iommu_group", decimal()),
            Message("attr", "attributes", (Field("@name", "name"), Field("@value", "value")), many=True),
            Field("start/@type", "start"),
        ),
        describe.mdev,
        facts.mdev,
        needed=("type_id",),
    ),
    Row(
        "ccw",
        "ccw",
        (
            *_CCW_ADDRESS,
            Field("state", "state"),
            Field("capability[@type='ccwgroup_member']/group_device", "group_device"),
        ),
        describe.ccw,
        derive=derived.ccw_address,
        derived=("address",),
        needed=_CCW_NEEDED,
    ),
    Row(
        "ccwgroup",
        "ccwgroup",
        (
            *_CCW_ADDRESS,
            Field("state", "state"),
            Message("members/ccw_device", "members", (Field("@ref", "ref"), Field(".", "device")), many=True),
            Message("capability[@type='qeth_generic']", "qeth_generic", _QETH),
            Message("capability[@type='qeth_layer2']", "qeth_layer2", _QETH),
            Message("capability[@type='qeth_layer3']", "qeth_layer3", _QETH),
        ),
        describe.ccwgroup,
        derive=derived.ccw_address,
        derived=("address",),
        needed=_CCW_NEEDED,
    ),
    Row(
        "css",
        "css",
        (
            *_CCW_ADDRESS,
            Message(
                "channel_dev_addr",
                "channel_dev_addr",
                _CCW_ADDRESS,
                derive=derived.ccw_address,
                derived=("address",),
            ),
            _MDEV_TYPES,
        ),
        describe.css,
        derive=derived.ccw_address,
        derived=("address",),
        needed=_CCW_NEEDED,
    ),
    Row(
        "ap_card",
        "ap_card",
        (Field("ap-adapter", "ap_adapter", either(0xFF)),),
        describe.ap_card,
        derive=derived.ap_card,
        derived=("address",),
        needed=("ap_adapter",),
    ),
    Row(
        "ap_queue",
        "ap_queue",
        (Field("ap-adapter", "ap_adapter", either(0xFF)), Field("ap-domain", "ap_domain", either(0xFFFF))),
        describe.ap_queue,
        derive=derived.ap_queue,
        derived=("address",),
        needed=("ap_adapter", "ap_domain"),
    ),
    Row("ap_matrix", "ap_matrix", (_MDEV_TYPES,), describe.ap_matrix),
    Row("vdpa", "vdpa", (Field("chardev", "chardev"),), describe.vdpa, needed=("chardev",)),
)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A row with its rules as trees: `below` for the capability, `beside` for the device's other children."""

    row: Row
    below: Node
    beside: Node


def _compile(row: Row) -> Compiled:
    beside = tuple(rule for rule in row.rules if rule.path.startswith("../"))
    return Compiled(row, compile_rules(rule for rule in row.rules if rule not in beside), compile_rules(beside))


BY_CAPABILITY = {row.capability: _compile(row) for row in ROWS}
