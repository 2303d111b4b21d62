"""The request ids of Attach: a repeat is recognised, and an id cannot be used for something else."""

from __future__ import annotations

import hashlib
from collections.abc import Container

from hostdevd.core.failures import request_id_reused
from hostdevd.core.journal import RequestRecord
from hostdevd.core.plan import AttachRequest

_ANY_PEER = "unix"
"""Whoever was at a unix socket, in journals of before the kernel was asked who it is."""


class Requests:
    """All ids that are remembered, as the journal has them."""

    def __init__(self) -> None:
        self._records: dict[str, RequestRecord] = {}

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._records

    def put(self, record: RequestRecord) -> None:
        """Remember an id, or how its request ended."""
        self._records[record.request_id] = record

    def drop(self, request_id: str) -> None:
        """Forget an id: its request changed nothing."""
        self._records.pop(request_id, None)

    def repeated(self, request_id: str, caller: str, fingerprint: str) -> RequestRecord:
        """The record of an id that is known; `REQUEST_ID_REUSED` for another caller's or another request."""
        record = self._records[request_id]
        if not _is_same(record.caller, caller) or record.fingerprint != fingerprint:
            raise request_id_reused(request_id)
        return record

    def get(self, request_id: str) -> RequestRecord | None:
        """The record of an id."""
        return self._records.get(request_id)

    def purge(self, before: float, assignments: Container[str]) -> None:
        """Forget old ids whose assignments are gone too."""
        for record in tuple(self._records.values()):
            if record.time < before and record.assignment not in assignments:
                del self._records[record.request_id]


def _is_same(recorded: str, caller: str) -> bool:
    """Whether a name of `Caller.name` is the one that a record has."""
    return recorded == caller or (recorded == _ANY_PEER and caller.startswith("uid:"))


def fingerprint(request: AttachRequest) -> str:
    """What a repeat must have in common with the first: everything but how long to wait."""
    expected = sorted(request.expected_affected) if request.expected_affected is not None else None
    parts = (request.vm, request.device, request.group_policy, request.scope, expected)
    return hashlib.sha256(repr(parts).encode()).hexdigest()
