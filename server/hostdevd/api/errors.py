"""The one place where a `HostdevError` becomes a `google.rpc.Status` (api.md, "Errors")."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from hostdev.v1 import error_pb2
from hostdevd.core.errors import HostdevError
from hostdevd.core.model import Reason

DOMAIN = "hostdevd"
DETAILS_TRAILER = "grpc-status-details-bin"

# Trailers travel as HTTP/2 headers, of which many clients take 8 KiB in all; base64 makes 4 bytes of 3.
_DETAILS_LIMIT_BYTES = 5000
_MESSAGE_LIMIT_CHARS = 600

_CODES: dict[grpc.StatusCode, tuple[str, ...]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (
        "INVALID_FIELD",
        "INVALID_PAGE_TOKEN",
        "INVALID_RESUME_TOKEN",
        "REQUEST_ID_REUSED",
    ),
    grpc.StatusCode.NOT_FOUND: (
        "HOST_NOT_FOUND",
        "DEVICE_NOT_FOUND",
        "GROUP_NOT_FOUND",
        "VM_NOT_FOUND",
        "ASSIGNMENT_NOT_FOUND",
        "NOT_HELD_BY_VM",
    ),
    grpc.StatusCode.ALREADY_EXISTS: ("ALREADY_ATTACHED",),
    grpc.StatusCode.FAILED_PRECONDITION: (
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
    ),
    grpc.StatusCode.ABORTED: ("OPERATION_IN_PROGRESS", "AFFECTED_SET_CHANGED", "LIBVIRT_BUSY"),
    grpc.StatusCode.OUT_OF_RANGE: ("REVISION_COMPACTED",),
    grpc.StatusCode.RESOURCE_EXHAUSTED: ("SLOW_CONSUMER", "TOO_MANY_WATCHERS", "RATE_LIMITED"),
    grpc.StatusCode.UNAUTHENTICATED: ("NO_IDENTITY",),
    grpc.StatusCode.PERMISSION_DENIED: ("NOT_ALLOWED",),
    grpc.StatusCode.UNAVAILABLE: ("LIBVIRT_DISCONNECTED", "STATE_STORE_UNAVAILABLE", "SHUTTING_DOWN"),
    grpc.StatusCode.INTERNAL: ("BROKER_NOT_AUTHORIZED", "UNEXPECTED"),
    grpc.StatusCode.UNIMPLEMENTED: ("NOT_SERVED",),
}

STATUS_OF = {reason: code for code, reasons in _CODES.items() for reason in reasons}
"""The status code of every reason that an error can have."""


def code_of(error: HostdevError) -> grpc.StatusCode:
    """The status code of an error."""
    return STATUS_OF[error.reason]


def reason_message(reason: Reason) -> error_pb2.Reason:
    """A reason as the API's message."""
    return error_pb2.Reason(
        code=error_pb2.ErrorReason.Value(f"ERROR_REASON_{reason.code}"),
        subject=reason.subject,
        message=reason.message,
        remedy=reason.remedy,
    )


def to_status(error: HostdevError) -> status_pb2.Status:
    """The status with its details, the most useful first; what would not fit in a trailer is left out and counted."""
    code: int = code_of(error).value[0]
    status = status_pb2.Status(code=code, message=error.message[:_MESSAGE_LIMIT_CHARS])
    info = error_details_pb2.ErrorInfo(
        reason=error.reason,
        domain=DOMAIN,
        metadata={key: value[:_MESSAGE_LIMIT_CHARS] for key, value in error.metadata.items()},
    )
    status.details.add().Pack(info)
    left_out = 0
    for detail in _details(error):
        if status.ByteSize() + detail.ByteSize() > _DETAILS_LIMIT_BYTES:
            left_out += 1
            continue
        status.details.add().Pack(detail)
    if left_out:
        info.metadata["details_left_out"] = str(left_out)
        status.details[0].Pack(info)
    return status


def _details(error: HostdevError) -> Iterator[Message]:
    if error.fields:
        yield error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=field.field, description=field.description)
                for field in error.fields
            ]
        )
    if error.resource is not None:
        kind, name = error.resource
        yield error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name, description=error.message)
    if error.retry_after_s is not None:
        yield error_details_pb2.RetryInfo(retry_delay=Duration(nanos=0, seconds=max(1, round(error.retry_after_s))))
    violations = _violations(error)
    if violations:
        yield error_details_pb2.PreconditionFailure(violations=violations)
    for reason in error.reasons:
        yield reason_message(reason)


def _violations(error: HostdevError) -> list[error_details_pb2.PreconditionFailure.Violation]:
    """One violation per reason, as many as leave room for the reasons themselves."""
    found = []
    room = _DETAILS_LIMIT_BYTES // 2
    for reason in error.reasons:
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=reason.code, subject=reason.subject, description=reason.message
        )
        room -= violation.ByteSize()
        if room < 0:
            break
        found.append(violation)
    return found
