"""What a refused or failed call says, unpacked from the wire.

    HostdevError
    ├── HostdevApiError         a call failed; has code, reason, metadata, reasons with remedies
    │   ├── InvalidRequestError    INVALID_ARGUMENT, OUT_OF_RANGE: the request makes no sense, or no longer
    │   ├── NotFoundError          NOT_FOUND: no such host, device, group, VM, assignment; not held
    │   ├── AlreadyExistsError     ALREADY_EXISTS: the VM has it already, by another request
    │   ├── PreconditionError      FAILED_PRECONDITION: something is in the way; `reasons` say what, and what to do
    │   ├── ConflictError          ABORTED: another operation is in flight, or the world has changed; look again
    │   ├── ExhaustedError         RESOURCE_EXHAUSTED: too many watchers or calls, or a watcher that is too slow
    │   ├── AccessError            UNAUTHENTICATED, PERMISSION_DENIED: this caller may not
    │   ├── UnavailableError       UNAVAILABLE, DEADLINE_EXCEEDED: nobody answered, or not in time; try again later
    │   └── ServerError            INTERNAL, UNIMPLEMENTED and all others
    └── UnfinishedError         the wait is over and the server goes on; `assignment` is how far it is

>>> from hostdev import HostdevClient, PreconditionError
>>> with HostdevClient() as client:
...     try:
...         client.attach("alpha", "pci_0000_0c_00_0")
...     except PreconditionError as error:
...         print(error.reason)
...         for reason in error.reasons:
...             print("*", reason.message, "->", reason.remedy)
DEVICE_NOT_ELIGIBLE
* block_nvme1n1_QEMU_NVMe_Ctrl_lab_mounted is mounted at /mnt/lab -> unmount /mnt/lab if the host can do without it

New reasons need no new classes: programs that know one decide by `reason`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from hostdev.shut import explain_shut, shut_socket
from hostdev.v1 import assignment_pb2, error_pb2

DOMAIN = "hostdevd"
_DETAILS_KEY = "grpc-status-details-bin"
_UNREACHABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that is wrong: its path, `filter.ids[0]`, and what is wrong with it."""

    field: str
    description: str


class HostdevError(Exception):
    """Whatever this client raises by itself.

    `request_id` is the attach's where `attached` could not tell whether it has come about, empty elsewhere.
    """

    request_id: str = ""


class UnfinishedError(HostdevError):
    """An attach or a detach has not come to its end within `wait_s`; the server goes on with it."""

    def __init__(self, assignment: assignment_pb2.Assignment) -> None:
        state = assignment_pb2.AssignmentState.Name(assignment.state).removeprefix("ASSIGNMENT_STATE_")
        super().__init__(f"assignment {assignment.name} of {assignment.vm.name} is still {state}")
        self.assignment = assignment


@dataclass(slots=True, eq=False)
class HostdevApiError(HostdevError):
    """A call failed.

    `code` is the gRPC status. `reason` is an `ErrorReason` without its prefix, `HELD_BY_OTHER_VM`, or empty
    when the failure does not come from hostdevd itself (no connection, a proxy in between). `metadata` holds
    every value that the message mentions. `reasons` are the causes, each with subject and remedy.
    `retry_after_s` is how many seconds the server asks to wait; None when it asks nothing. `method` is the RPC.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    reasons: tuple[error_pb2.Reason, ...] = ()
    field_violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None
    method: str = ""

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"

    @property
    def unreachable(self) -> bool:
        """Nobody answered, or not in time: the same call may work later."""
        return self.code in _UNREACHABLE

    @staticmethod
    def of(code: grpc.StatusCode, message: str, method: str = "") -> HostdevApiError:
        """A failure of the class that its code belongs to."""
        return _CLASSES.get(code, ServerError)(code, message, method=method)

    @staticmethod
    def from_rpc_error(error: grpc.RpcError, method: str = "") -> HostdevApiError:
        """Read all that the error carries; unreadable details are left out rather than raised."""
        if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
            return HostdevApiError.of(grpc.StatusCode.UNKNOWN, str(error), method)
        found = HostdevApiError.of(error.code() or grpc.StatusCode.UNKNOWN, error.details() or "", method)
        with suppress(DecodeError):
            _read(found, _status(error.trailing_metadata()))
        if not found.reason and found.unreachable and (shut := shut_socket(found.message)) is not None:
            found.message, found.metadata = explain_shut(shut), {"socket": str(shut)}
        return found


class InvalidRequestError(HostdevApiError):
    """The request makes no sense, or no longer: `field_violations` name the fields."""


class NotFoundError(HostdevApiError):
    """What the request names is not there."""


class AlreadyExistsError(HostdevApiError):
    """The VM has the device already, by another request; `metadata` names its assignment."""


class PreconditionError(HostdevApiError):
    """Something is in the way: each of `reasons` says what, and what to do about it."""


class ConflictError(HostdevApiError):
    """Another operation is in flight, or something is not as the caller thought: look again."""


class ExhaustedError(HostdevApiError):
    """Too much at once."""


class AccessError(HostdevApiError):
    """The caller may not do this, or is not known."""


class UnavailableError(HostdevApiError):
    """Nobody answered, or not in time: the same call may work later."""


class ServerError(HostdevApiError):
    """The server failed, or does not serve the call."""


_CLASSES: Mapping[grpc.StatusCode, type[HostdevApiError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ExhaustedError,
    grpc.StatusCode.UNAUTHENTICATED: AccessError,
    grpc.StatusCode.PERMISSION_DENIED: AccessError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
}


def client_closed(method: str) -> HostdevApiError:
    """What calls of a closed client end with. gRPC has several exceptions for it, none of which is an `RpcError`."""
    return HostdevApiError.of(grpc.StatusCode.CANCELLED, "the client is closed", method)


def _read(found: HostdevApiError, status: status_pb2.Status) -> None:
    found.message = status.message or found.message
    preconditions = error_details_pb2.PreconditionFailure()
    for detail in status.details:
        match detail.TypeName():
            case "google.rpc.ErrorInfo":
                info = error_details_pb2.ErrorInfo.FromString(detail.value)
                if info.domain == DOMAIN:
                    found.reason = info.reason
                    found.metadata = dict(info.metadata)
            case "hostdev.v1.Reason":
                found.reasons += (error_pb2.Reason.FromString(detail.value),)
            case "google.rpc.PreconditionFailure":
                preconditions.MergeFromString(detail.value)
            case "google.rpc.BadRequest":
                found.field_violations += tuple(
                    FieldViolation(violation.field, violation.description)
                    for violation in error_details_pb2.BadRequest.FromString(detail.value).field_violations
                )
            case "google.rpc.RetryInfo":
                delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                found.retry_after_s = delay.seconds + delay.nanos / 1e9
    if not found.reasons:
        found.reasons = tuple(_from_preconditions(preconditions.violations))


def _status(trailers: Iterable[tuple[str, str | bytes]] | None) -> status_pb2.Status:
    for key, value in trailers or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()


def _from_preconditions(
    violations: Iterable[error_details_pb2.PreconditionFailure.Violation],
) -> Iterable[error_pb2.Reason]:
    """What a gateway that knows only google.rpc leaves of the reasons: all but the remedies."""
    for violation in violations:
        name = f"ERROR_REASON_{violation.type}"
        known = name in error_pb2.ErrorReason.keys()  # noqa: SIM118 (an enum wrapper is no mapping)
        yield error_pb2.Reason(
            code=error_pb2.ErrorReason.Value(name) if known else error_pb2.ERROR_REASON_UNSPECIFIED,
            subject=violation.subject,
            message=violation.description,
        )
