"""Deadlines, and repeats as gRPC's service config: reads are tried again, what changes something never.

A call that changes something may have been begun by the server that did not answer. Attach is made safe to repeat by
its `request_id`, Detach by its assignment: that is the caller's decision.
"""

from __future__ import annotations

import json

SERVICE = "hostdev.v1.HostDeviceService"

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


def service_config() -> str:
    """Which calls are tried again, and how often.

    Without deadlines: those of gRPC 1.82's service config strike up to two seconds early. They go with each call.
    """
    names = [{"service": SERVICE, "method": method} for method in READS]
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": _RETRY}]})
