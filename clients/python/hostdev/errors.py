"""What a refused or failed call says, unpacked from the wire.

    Exception
    └── HostdevApiError   every failure of a call, whatever its gRPC code

There is one class on purpose: programs decide by `code` and `reason`, and new reasons need no new classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from hostdev.v1 import error_pb2

DOMAIN = "hostdevd"
_DETAILS_KEY = "grpc-status-details-bin"
_UNREACHABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that is wrong: its path, `filter.ids[0]`, and what is wrong with it."""

    field: str
    description: str


@dataclass(slots=True, eq=False)
class HostdevApiError(Exception):
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

    @classmethod
    def from_rpc_error(cls, error: grpc.RpcError, method: str = "") -> Self:
        """Read all that the error carries; unreadable details are left out rather than raised."""
        if not isinstance(error, grpc.Call):
            return cls(grpc.StatusCode.UNKNOWN, str(error), method=method)
        found = cls(error.code() or grpc.StatusCode.UNKNOWN, error.details() or "", method=method)
        with suppress(DecodeError):
            found._read(_status(error.trailing_metadata()))
        return found

    def _read(self, status: status_pb2.Status) -> None:
        self.message = status.message or self.message
        preconditions = error_details_pb2.PreconditionFailure()
        for detail in status.details:
            match detail.TypeName():
                case "google.rpc.ErrorInfo":
                    info = error_details_pb2.ErrorInfo.FromString(detail.value)
                    if info.domain == DOMAIN:
                        self.reason = info.reason
                        self.metadata = dict(info.metadata)
                case "hostdev.v1.Reason":
                    self.reasons += (error_pb2.Reason.FromString(detail.value),)
                case "google.rpc.PreconditionFailure":
                    preconditions.MergeFromString(detail.value)
                case "google.rpc.BadRequest":
                    self.field_violations += tuple(
                        FieldViolation(violation.field, violation.description)
                        for violation in error_details_pb2.BadRequest.FromString(detail.value).field_violations
                    )
                case "google.rpc.RetryInfo":
                    delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                    self.retry_after_s = delay.seconds + delay.nanos / 1e9
        if not self.reasons:
            self.reasons = tuple(_from_preconditions(preconditions.violations))


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
