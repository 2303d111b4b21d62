"""Room for connections: each takes three descriptors, one to its client and two to the gRPC server and back."""

from __future__ import annotations

import contextlib
import resource
from dataclasses import replace

import structlog

from hostdevd.core.limits import Limits

log = structlog.get_logger()

PER_CONNECTION = 3
OWN = 256
"""What the service has open itself: libvirt, the journal, files that it reads."""


def with_room(limits: Limits) -> Limits:
    """Raise the process's limit of open files as far as it may, and lower that of the connections to what it gives."""
    wanted = limits.connections_total * PER_CONNECTION + OWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # forbidden, under systemd: what it gave must do
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return limits
    room = max(1, (soft - OWN) // PER_CONNECTION)
    log.warning("the limit of open files leaves room for fewer connections", open_files=soft, connections=room)
    return replace(limits, connections_total=room)
