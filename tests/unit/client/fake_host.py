"""A small host as the API tells it: a GPU with its sound function, a NIC in use by a VM, the host's own disk."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from hostdev.v1 import assignment_pb2, device_pb2, error_pb2, group_pb2, holder_pb2, host_pb2

GPU = "pci_0000_01_00_0"
SOUND = "pci_0000_01_00_1"
NIC = "pci_0000_02_00_0"
ETH1 = "net_eth1_52_54_00_00_00_01"
DISK = "pci_0000_03_00_0"
CAMERA = "usb_1_2"
GPU_GROUP = "grp-gpu"
NOON = Timestamp(seconds=1_700_000_000)
ASSIGNMENT = "11111111-2222-4333-8444-555555555555"

WEB = holder_pb2.VmRef(name="web", uuid="aaaaaaaa-0000-4000-8000-000000000001", state=holder_pb2.VM_STATE_RUNNING)

FREE = device_pb2.Eligibility(eligible=True, available=True)
TAKEN = device_pb2.Eligibility(eligible=True)
NEVER = device_pb2.Eligibility(
    reasons=[error_pb2.Reason(code=error_pb2.ERROR_REASON_TYPE_NOT_ASSIGNABLE, message="not of an assignable type")]
)
BRIDGE = device_pb2.Eligibility(reasons=[error_pb2.Reason(code=error_pb2.ERROR_REASON_BRIDGE, message="a bridge")])
ROOT_DISK = error_pb2.Reason(
    code=error_pb2.ERROR_REASON_HOST_IN_USE,
    subject=DISK,
    message=f"{DISK} is mounted at /",
    remedy="Unmount it first.",
)


def uid(name: str) -> str:
    """A uid that is not the name."""
    return f"dev-{name.replace('_', '-')}"


def holder(device: str = NIC, vm: holder_pb2.VmRef = WEB) -> holder_pb2.Holder:
    """A VM that holds a device."""
    return holder_pb2.Holder(
        name=f"{uid(device)}.{vm.uuid}",
        device=device,
        uid=uid(device),
        vm=vm,
        live=True,
        config=True,
        via=holder_pb2.HOLDER_VIA_HOSTDEV,
        role=holder_pb2.HOLDER_ROLE_VISIBLE,
        guest_address="0000:05:00.0",
        since=NOON,
    )


def assignment(
    state: assignment_pb2.AssignmentState.ValueType = assignment_pb2.ASSIGNMENT_STATE_ATTACHED,
    name: str = ASSIGNMENT,
) -> assignment_pb2.Assignment:
    """The GPU's group, given to the VM `web`."""
    held = state == assignment_pb2.ASSIGNMENT_STATE_ATTACHED
    return assignment_pb2.Assignment(
        name=name,
        vm=WEB,
        devices=[
            assignment_pb2.AssignmentDevice(
                name=one,
                uid=uid(one),
                role=holder_pb2.HOLDER_ROLE_VISIBLE,
                original_driver=driver,
                current_driver="vfio-pci" if held else driver,
            )
            for one, driver in ((GPU, "nouveau"), (SOUND, "snd_hda_intel"))
        ],
        state=state,
        live=held,
        config=held,
        update_time=NOON,
    )


def host() -> host_pb2.Host:
    """The host's report."""
    return host_pb2.Host(
        name="lab1",
        uuid="bbbbbbbb-0000-4000-8000-000000000001",
        libvirt_version="9.0.0",
        synced_time=NOON,
        checks=[
            host_pb2.HostCheck(
                code=host_pb2.HOST_CHECK_CODE_IOMMU,
                status=host_pb2.HOST_CHECK_STATUS_FAIL,
                message="no IOMMU",
                remedy="Boot with intel_iommu=on.",
            )
        ],
    )


def devices() -> list[device_pb2.Device]:
    """The tree, in no special order."""
    pci = device_pb2.PciDetail(address="0000:01:00.0", id="10de:2204")
    return [
        device_pb2.Device(
            name=GPU,
            uid=uid(GPU),
            type="pci",
            parent="pci_0000_00_01_0",
            description="GA102 [GeForce] VGA",
            driver="nouveau",
            iommu_group=14,
            group=GPU_GROUP,
            numa_node=0,
            eligibility=FREE,
            pci=pci,
        ),
        device_pb2.Device(name="computer", uid=uid("computer"), type="system", eligibility=NEVER),
        device_pb2.Device(
            name="pci_0000_00_01_0",
            uid=uid("pci_0000_00_01_0"),
            type="pci",
            parent="computer",
            description="PCI bridge",
            driver="pcieport",
            iommu_group=14,
            group=GPU_GROUP,
            eligibility=BRIDGE,
        ),
        device_pb2.Device(
            name=SOUND,
            uid=uid(SOUND),
            type="pci",
            parent="pci_0000_00_01_0",
            driver="snd_hda_intel",
            iommu_group=14,
            group=GPU_GROUP,
            eligibility=FREE,
        ),
        device_pb2.Device(
            name=NIC,
            uid=uid(NIC),
            type="pci",
            parent="computer",
            children=[ETH1],
            description="NIC",
            driver="vfio-pci",
            eligibility=TAKEN,
            holders=[holder()],
        ),
        device_pb2.Device(name=ETH1, uid=uid(ETH1), type="net", parent=NIC, description="eth1", eligibility=NEVER),
        device_pb2.Device(
            name=DISK,
            uid=uid(DISK),
            type="pci",
            parent="computer",
            description="NVMe disk",
            driver="nvme",
            eligibility=device_pb2.Eligibility(reasons=[ROOT_DISK]),
            host_uses=[device_pb2.HostUse(kind=device_pb2.HOST_USE_KIND_MOUNT, detail="/")],
        ),
        device_pb2.Device(
            name=CAMERA,
            uid=uid(CAMERA),
            type="usb_device",
            parent="pci_that_is_not_listed",
            description="[red]Evil\x1b[2JCam[/red]",
            eligibility=FREE,
        ),
    ]


def affected() -> dict[str, list[str]]:
    """What the host loses beside a device, by its name."""
    return {GPU: [SOUND], SOUND: [GPU], NIC: [ETH1]}


def group() -> group_pb2.Group:
    """The GPU's group."""
    endpoint = group_pb2.GROUP_MEMBER_ROLE_ENDPOINT
    return group_pb2.Group(
        uid=GPU_GROUP,
        iommu_group=14,
        eligibility=FREE,
        members=[
            group_pb2.GroupMember(
                name="pci_0000_00_01_0",
                uid=uid("pci_0000_00_01_0"),
                role=group_pb2.GROUP_MEMBER_ROLE_BRIDGE,
                driver="pcieport",
            ),
            group_pb2.GroupMember(name=GPU, uid=uid(GPU), role=endpoint, driver="nouveau"),
            group_pb2.GroupMember(name=SOUND, uid=uid(SOUND), role=endpoint, driver="snd_hda_intel"),
        ],
    )
