"""What every log line of a call carries: the method, who calls, and in calls that change something what they name.

Operations begin within calls, so their lines carry it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc.aio

from hostdevd.api.context import caller_of

CHANGES: Mapping[str, Mapping[str, str]] = {
    "Attach": {"request_id": "request_id", "vm": "vm", "device": "device"},
    "Detach": {"assignment": "assignment", "vm": "vm", "device": "device"},
    "ForgetAssignment": {"name": "assignment"},
    "SetVirtualFunctions": {"device": "device"},
    "CreateMediatedDevice": {"parent": "device", "uuid": "uuid"},
    "DeleteMediatedDevice": {"device": "device"},
}
"""By method, fields of the request and what the log calls them. They are as the client sent them: not judged yet."""

MOST_CHARACTERS = 200
"""Of a field: names are shorter, and the context goes with every line."""


def log_context(method: str, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, str]:
    """The fields for a call of `/package.Service/Method`."""
    name = method.rpartition("/")[2]
    fields = {"method": name, "caller": caller_of(context).name}
    for field, called in CHANGES.get(name, {}).items():
        given = getattr(request, field, "")  # what is no message of the method has none
        if given:
            fields[called] = given[:MOST_CHARACTERS]
    return fields


def changes_something(method: str, request: Any) -> bool:
    """Whether a call is one that changes something, and no dry run."""
    return method.rpartition("/")[2] in CHANGES and not getattr(request, "validate_only", False)
