"""Deadlines and repeats by call, as gRPC's service config: reads are tried again, what changes something never.

A call that changes something may have been begun by the server that did not answer. Attach is made safe to repeat by
its `request_id`, Detach by its assignment: that is the caller's decision.
"""

from __future__ import annotations

import json

SERVICE = "hostdev.v1.HostDeviceService"
ADMIN_SERVICE = "hostdev.v1.HostDeviceAdminService"

DEFAULT_TIMEOUT_S = 30.0
GRACE_S = 2.0
"""The server answers Attach and Detach when `wait` is over: their deadline only guards against its death."""

READS = (
    "GetHost",
    "ListDevices",
    "GetDevice",
    "ListEligible",
    "ListGroups",
    "GetGroup",
    "ListAssignments",
    "GetAssignment",
    "ListHolders",
)
_RETRY = {
    "maxAttempts": 3,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 4,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def service_config(timeout_s: float) -> str:
    """The policy with this deadline for all calls but Attach, Detach and watches, which have times of their own."""
    timeout = f"{timeout_s:.9f}s"
    return json.dumps(
        {
            "methodConfig": [
                {
                    "name": [{"service": SERVICE, "method": method} for method in READS],
                    "timeout": timeout,
                    "retryPolicy": _RETRY,
                },
                {
                    "name": [{"service": SERVICE, "method": "ForgetAssignment"}, {"service": ADMIN_SERVICE}],
                    "timeout": timeout,
                },
            ]
        }
    )
