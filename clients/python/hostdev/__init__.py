"""Client of hostdevd: assigns a host's devices to virtual machines over gRPC.

`HostdevClient` here, `AsyncHostdevClient` in `hostdev.aio`, errors in `hostdev.errors`. The messages are in
`hostdev.v1`; the command line, `hostdevctl`, comes with the extra `cli`.
"""

from hostdev.channel import Tls
from hostdev.client import HostdevClient
from hostdev.errors import (
    AccessError,
    AlreadyExistsError,
    ConflictError,
    ExhaustedError,
    FieldViolation,
    HostdevApiError,
    HostdevError,
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
    ServerError,
    UnavailableError,
    UnfinishedError,
)
from hostdev.listing import AsyncListing, Listing
from hostdev.progress import Patience

__all__ = [
    "AccessError",
    "AlreadyExistsError",
    "AsyncListing",
    "ConflictError",
    "ExhaustedError",
    "FieldViolation",
    "HostdevApiError",
    "HostdevClient",
    "HostdevError",
    "InvalidRequestError",
    "Listing",
    "NotFoundError",
    "Patience",
    "PreconditionError",
    "ServerError",
    "Tls",
    "UnavailableError",
    "UnfinishedError",
]
