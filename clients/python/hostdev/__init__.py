"""Client of hostdevd: assigns a host's devices to virtual machines over gRPC.

The messages are in `hostdev.v1`; the command line, `hostdevctl`, comes with the extra `cli`.
"""

from hostdev.client import HostdevClient
from hostdev.errors import FieldViolation, HostdevApiError
from hostdev.listing import Listing
from hostdev.watch import Patience, watch_devices, watch_holders

__all__ = [
    "FieldViolation",
    "HostdevApiError",
    "HostdevClient",
    "Listing",
    "Patience",
    "watch_devices",
    "watch_holders",
]
