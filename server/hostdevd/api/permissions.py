"""Which permission each method needs: one row per method of everything that is served.

Which role has which permission: `core/rights.py`. What of a permission the caller's selectors leave is judged where the
devices and the machine of the call are known (`core/sight.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hostdevd.core.rights import Permission


@dataclass(frozen=True, slots=True)
class Row:
    """What a method needs; None: nothing, not even an identity. `changes`: it is one for the audit log."""

    permission: Permission | None
    changes: bool = False


_P = Permission

METHODS: Mapping[str, Row] = {
    "/hostdev.v1.HostDeviceService/GetHost": Row(_P.HOST_READ),
    "/hostdev.v1.HostDeviceService/ListDevices": Row(_P.DEVICES_READ),
    "/hostdev.v1.HostDeviceService/GetDevice": Row(_P.DEVICES_READ),
    "/hostdev.v1.HostDeviceService/ListEligible": Row(_P.DEVICES_READ),
    "/hostdev.v1.HostDeviceService/WatchDevices": Row(_P.DEVICES_READ),
    "/hostdev.v1.HostDeviceService/ListGroups": Row(_P.GROUPS_READ),
    "/hostdev.v1.HostDeviceService/GetGroup": Row(_P.GROUPS_READ),
    "/hostdev.v1.HostDeviceService/ListHolders": Row(_P.HOLDERS_READ),
    "/hostdev.v1.HostDeviceService/WatchHolders": Row(_P.HOLDERS_READ),
    "/hostdev.v1.HostDeviceService/ListAssignments": Row(_P.ASSIGNMENTS_READ),
    "/hostdev.v1.HostDeviceService/GetAssignment": Row(_P.ASSIGNMENTS_READ),
    "/hostdev.v1.HostDeviceService/Attach": Row(_P.ASSIGNMENTS_ATTACH, changes=True),
    "/hostdev.v1.HostDeviceService/Detach": Row(_P.ASSIGNMENTS_DETACH, changes=True),
    "/hostdev.v1.HostDeviceService/ForgetAssignment": Row(_P.ASSIGNMENTS_FORGET, changes=True),
    "/hostdev.v1.HostDeviceAdminService/SetVirtualFunctions": Row(_P.FUNCTIONS_SET, changes=True),
    "/hostdev.v1.HostDeviceAdminService/CreateMediatedDevice": Row(_P.MDEVS_CREATE, changes=True),
    "/hostdev.v1.HostDeviceAdminService/DeleteMediatedDevice": Row(_P.MDEVS_DELETE, changes=True),
    # A load balancer that asks whether the service is well has no identity, and learns nothing else.
    "/grpc.health.v1.Health/Check": Row(None),
    "/grpc.health.v1.Health/Watch": Row(None),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Row(_P.SCHEMA_READ),
}
