"""What every log line of a call carries: the method, who calls, and in calls that change something what they name.

Operations begin within calls, so their lines carry it too.
"""

from __future__ import annotations

from typing import Any

import grpc.aio

from hostdevd.api.context import caller_of
from hostdevd.api.methods import METHODS

MOST_CHARACTERS = 200
"""Of a field: names are shorter, and the context goes with every line."""


def log_context(method: str, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, str]:
    """The fields for a call of `/package.Service/Method`."""
    fields = {"method": method.rpartition("/")[2], "caller": caller_of(context).name}
    row = METHODS.get(method)
    for field, called in row.names.items() if row is not None else ():
        given = getattr(request, field, "")  # what is no message of the method has none
        if given:
            fields[called] = given[:MOST_CHARACTERS]
    return fields


def changes_something(method: str, request: Any) -> bool:
    """Whether a call is one that changes something, and no dry run."""
    row = METHODS.get(method)
    return row is not None and row.changes and not getattr(request, "validate_only", False)
