"""Every way in which hostdevd says no.

HostdevError            has a reason of the API's `ErrorReason`, text, metadata and details
(one class: callers tell errors apart by `reason`, and `api/errors.py` maps reasons to status codes)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hostdevd.core.model import Reason


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that is wrong: its path in the message, and what would be right."""

    field: str
    description: str


PRECONDITIONS = (
    "HELD_BY_OTHER_VM",
    "DEVICE_NOT_ELIGIBLE",
    "GROUP_HAS_OTHER_ENDPOINTS",
    "SCOPE_UNAVAILABLE",
    "AMBIGUOUS_DEVICE",
    "DEVICE_CHANGED",
    "GUEST_HAS_NO_SLOT",
    "GUEST_HAS_NO_CONTROLLER",
    "HOTPLUG_UNSUPPORTED",
    "MANAGED_SAVE_PRESENT",
    "HYPERVISOR_UNSUPPORTED",
    "DETACH_REJECTED_BY_GUEST",
    "ATTACH_FAILED",
    "ASSIGNMENT_IN_USE",
    "VFS_IN_USE",
    "FEATURE_DISABLED",
)
"""The reasons of `FAILED_PRECONDITION`, the one to be told first where several hold (api.md, "Errors").

A dry run has them as blockers of its plan, a real call as its error.
"""


class HostdevError(Exception):
    """A refusal or failure that the caller is told about.

    `reason` is a value's name of `ErrorReason` without prefix. Every dynamic value of the message stands
    in `metadata` too. `retry_after_s` asks the client to try again later.
    """

    def __init__(  # noqa: PLR0913  the parts of google.rpc.Status, each named at the call
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        reasons: tuple[Reason, ...] = (),
        fields: tuple[FieldViolation, ...] = (),
        resource: tuple[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.reasons = reasons
        self.fields = fields
        self.resource = resource
        self.retry_after_s = retry_after_s


def invalid_field(field: str, description: str) -> HostdevError:
    """The caller's mistake, with the field's name."""
    return HostdevError(
        "INVALID_FIELD",
        f"{field}: {description}",
        metadata={"field": field},
        fields=(FieldViolation(field, description),),
    )


def invalid_token(field: str, reason: str, description: str) -> HostdevError:
    """A token that is none of hostdevd's, or is used for something else: the caller's mistake as well."""
    return HostdevError(
        reason,
        f"{field} {description}",
        metadata={"field": field},
        fields=(FieldViolation(field, description),),
    )


def disconnected(why: str) -> HostdevError:
    """Libvirt is away; the service reconnects by itself."""
    return HostdevError(
        "LIBVIRT_DISCONNECTED",
        f"libvirt is not connected: {why}",
        metadata={"why": why},
        retry_after_s=2.0,
    )
