"""Failures as people read them, and the exit status that they lead to.

0 done   1 refused or failed   2 usage   3 unavailable   130 interrupted   141 nobody reads the output
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import grpc

from hostdev.cli.output import note
from hostdev.cli.words import remedy, word
from hostdev.errors import HostdevApiError
from hostdev.v1 import error_pb2

REFUSED = 1
UNAVAILABLE = 3
INTERRUPTED = 130
BROKEN_PIPE = 141


class Refusal(Exception):
    """hostdevctl itself ends here; what it has to say is in the message, the causes in `reasons`."""

    def __init__(self, message: str, reasons: Iterable[error_pb2.Reason] = (), status: int = REFUSED) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)
        self.status = status


def report(error: HostdevApiError | Refusal, address: str) -> int:
    """Tell on standard error what went wrong; the exit status."""
    if isinstance(error, Refusal):
        note(f"hostdevctl: {error}")
        _tell_reasons(error.reasons, str(error))
        return error.status
    note(f"hostdevctl: {error.reason or error.code.name}: {_message(error, address)}")
    _tell_reasons(error.reasons, error.message)
    for violation in error.field_violations:
        if violation.field not in error.message or violation.description not in error.message:
            note(f"  {violation.field}: {violation.description}")
    if error.retry_after_s:
        note(f"  try again in {error.retry_after_s:g} s")
    return UNAVAILABLE if error.unreachable else REFUSED


def abandon_output() -> None:
    """Nobody reads standard output any more; keep the interpreter from noticing again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _message(error: HostdevApiError, address: str) -> str:
    if error.reason or "socket" in error.metadata:
        return error.message
    # What gRPC says by itself is not for people.
    match error.code:
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"the server does not serve {error.method}"
        case grpc.StatusCode.UNAVAILABLE:
            return f"cannot reach hostdevd at {address}; is it running? ({error.message})"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer from hostdevd at {address} in time"
    return error.message


def _tell_reasons(reasons: tuple[error_pb2.Reason, ...], said: str) -> None:
    for reason in reasons:
        if not said.endswith(reason.message):
            about = f" ({reason.subject})" if reason.subject and reason.subject not in reason.message else ""
            note(f"  {word(reason, 'code')}: {reason.message}{about}")
        if reason.remedy:
            note(f"    → {remedy(reason.remedy)}")
