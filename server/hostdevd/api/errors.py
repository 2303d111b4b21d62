"""The one place where a `HostdevError` becomes a `google.rpc.Status` (api.md, "Errors")."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from hostdev.v1 import error_pb2
from hostdevd.core.errors import PRECONDITIONS, HostdevError
from hostdevd.core.model import OfVm, Reason

DOMAIN = "hostdevd"
DETAILS_TRAILER = "grpc-status-details-bin"

# Trailers travel as HTTP/2 headers, of which many clients take 8 KiB in all. There, base64 makes 4 bytes of
# 3 of the details, and the message stands a second time, in which 3 bytes stand for one that is not ASCII.
_TRAILER_LIMIT_BYTES = 7000
_TEXT_LIMIT_BYTES = 600
_INFO_LIMIT_BYTES = 1500
_VIOLATIONS_LIMIT_BYTES = 1800
_LEFT_OUT_BYTES = 64

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
    grpc.StatusCode.FAILED_PRECONDITION: PRECONDITIONS,
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


def with_vms(message: str, *vms: OfVm | None) -> str:
    """A text with what it left out of machines; who may not be told of one has been seen to before."""
    told = "; ".join(str(one) for one in vms if one is not None)
    return f"{message} ({told})" if told else message


def reason_message(reason: Reason) -> error_pb2.Reason:
    """A reason as the API's message."""
    return error_pb2.Reason(
        code=error_pb2.ErrorReason.Value(f"ERROR_REASON_{reason.code}"),
        subject=reason.subject,
        message=with_vms(reason.message, reason.of_vm),
        remedy=reason.remedy,
    )


def to_status(error: HostdevError) -> status_pb2.Status:
    """The status with its details, the most useful first; what would not fit in a trailer is left out and counted."""
    code: int = code_of(error).value[0]
    status = status_pb2.Status(code=code, message=_cut(error.message))
    info = _info(error)
    status.details.add().Pack(info)
    room = (_TRAILER_LIMIT_BYTES - _percent_encoded_bytes(status.message)) * 3 // 4 - _LEFT_OUT_BYTES
    left_out = 0
    for detail in _details(error):
        status.details.add().Pack(detail)
        if status.ByteSize() > room:
            del status.details[-1]
            left_out += 1
    if left_out:
        info.metadata["details_left_out"] = str(left_out)
        status.details[0].Pack(info)
    return status


def _info(error: HostdevError) -> error_details_pb2.ErrorInfo:
    """The reason with its metadata, shortened until it leaves room for the rest."""
    limit = _TEXT_LIMIT_BYTES
    while True:
        info = error_details_pb2.ErrorInfo(
            reason=error.reason,
            domain=DOMAIN,
            metadata={key: _cut(value, limit) for key, value in error.metadata.items()},
        )
        if info.ByteSize() <= _INFO_LIMIT_BYTES or not limit:
            return info
        limit //= 2


def _cut(text: str, limit: int = _TEXT_LIMIT_BYTES) -> str:
    return text.encode(errors="replace")[:limit].decode(errors="ignore")


def _percent_encoded_bytes(text: str) -> int:
    return sum(1 if " " <= chr(byte) <= "~" and byte != ord("%") else 3 for byte in text.encode())


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
        yield error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name, description=_cut(error.message))
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
    room = _VIOLATIONS_LIMIT_BYTES
    for reason in error.reasons:
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=reason.code, subject=reason.subject, description=_cut(with_vms(reason.message, reason.of_vm))
        )
        room -= violation.ByteSize()
        if room < 0:
            break
        found.append(violation)
    return found
