"""What each method is: one row for everything that is served, read by the gate, the limits, the logs and the audit.

Which role has which permission: `core/rights.py`. What of a permission the caller's selectors leave is judged where the
devices and the machine of the call are known (`core/sight.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hostdevd.core.limits import Work
from hostdevd.core.rights import Permission


@dataclass(frozen=True, slots=True)
class Method:
    """One of them.

    `permission` is what a caller needs (None: nothing, not even an identity), `work` what a call counts as (None:
    nothing). `names` are fields of a request for a change, and what the logs call them, as the client sent them.
    """

    permission: Permission | None
    work: Work | None
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        """Whether it is one for the audit log."""
        return self.work is Work.MUTATIONS


_P, _W = Permission, Work

METHODS: Mapping[str, Method] = {
    "/hostdev.v1.HostDeviceService/GetHost": Method(_P.HOST_READ, _W.READS),
    "/hostdev.v1.HostDeviceService/ListDevices": Method(_P.DEVICES_READ, _W.READS),
    "/hostdev.v1.HostDeviceService/GetDevice": Method(_P.DEVICES_READ, _W.READS),
    "/hostdev.v1.HostDeviceService/ListEligible": Method(_P.DEVICES_READ, _W.READS),
    "/hostdev.v1.HostDeviceService/WatchDevices": Method(_P.DEVICES_READ, _W.WATCHERS),
    "/hostdev.v1.HostDeviceService/ListGroups": Method(_P.GROUPS_READ, _W.READS),
    "/hostdev.v1.HostDeviceService/GetGroup": Method(_P.GROUPS_READ, _W.READS),
    "/hostdev.v1.HostDeviceService/ListHolders": Method(_P.HOLDERS_READ, _W.READS),
    "/hostdev.v1.HostDeviceService/WatchHolders": Method(_P.HOLDERS_READ, _W.WATCHERS),
    "/hostdev.v1.HostDeviceService/ListAssignments": Method(_P.ASSIGNMENTS_READ, _W.READS),
    "/hostdev.v1.HostDeviceService/GetAssignment": Method(_P.ASSIGNMENTS_READ, _W.READS),
    "/hostdev.v1.HostDeviceService/Attach": Method(
        _P.ASSIGNMENTS_ATTACH, _W.MUTATIONS, {"request_id": "request_id", "vm": "vm", "device": "device"}
    ),
    "/hostdev.v1.HostDeviceService/Detach": Method(
        _P.ASSIGNMENTS_DETACH, _W.MUTATIONS, {"assignment": "assignment", "vm": "vm", "device": "device"}
    ),
    "/hostdev.v1.HostDeviceService/ForgetAssignment": Method(
        _P.ASSIGNMENTS_FORGET, _W.MUTATIONS, {"name": "assignment"}
    ),
    "/hostdev.v1.HostDeviceAdminService/SetVirtualFunctions": Method(
        _P.FUNCTIONS_SET, _W.MUTATIONS, {"device": "device"}
    ),
    "/hostdev.v1.HostDeviceAdminService/CreateMediatedDevice": Method(
        _P.MDEVS_CREATE, _W.MUTATIONS, {"parent": "device", "uuid": "uuid"}
    ),
    "/hostdev.v1.HostDeviceAdminService/DeleteMediatedDevice": Method(
        _P.MDEVS_DELETE, _W.MUTATIONS, {"device": "device"}
    ),
    # A load balancer that asks whether the service is well has no identity, and learns nothing else; it must be told
    # however busy the service is, and costs nothing.
    "/grpc.health.v1.Health/Check": Method(None, None),
    "/grpc.health.v1.Health/Watch": Method(None, _W.WATCHERS),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Method(_P.SCHEMA_READ, _W.WATCHERS),
}
