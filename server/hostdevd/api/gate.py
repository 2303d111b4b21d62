"""The one seam where calls are let in, and where the audit log hears of those that ask for a change.

Room first, since it costs nothing to ask, then the permission; a request is not looked at before.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import DecodeError

from hostdev.v1 import error_pb2
from hostdevd.api.access import ENTRY, Access
from hostdevd.api.interceptors import abort
from hostdevd.api.methods import METHODS, Method
from hostdevd.api.wrapping import Handler, Rpc, Wrapping, yields
from hostdevd.core.audit import Asked, Entry, Outcome
from hostdevd.core.audit_log import AuditLog
from hostdevd.core.caller import Caller
from hostdevd.core.errors import HostdevError, invalid_field
from hostdevd.core.limits import Counts, Work
from hostdevd.core.ports import HypervisorGone
from hostdevd.core.redaction import error_for

_OWN = frozenset({"vm", "device", "assignment", "request_id"})
"""What has a column of its own in the audit log."""
_DENIED = frozenset({"NOT_ALLOWED", "NO_IDENTITY"})
IDLE_S = 30.0
"""Between two requests of one call."""
_SHOWN_BYTES = 4096
"""The arguments of a larger request are not told: nothing sensible has them."""


class Gate(Wrapping):
    """Next to the handlers: every call of every service passes it, streams too. Without `counts` all have room."""

    def __init__(self, access: Access, counts: Counts | None, audit: AuditLog, now: Callable[[], float]) -> None:
        super().__init__()
        self._access = access
        self._counts = counts
        self._audit = audit
        self._now = now

    def around(self, behaviour: Any, method: str, handler: Handler) -> Any:
        """Let a call in by the permission that its method needs."""
        return self._stream(behaviour, method, handler) if yields(behaviour) else self._request(behaviour, method)

    def decoder(self, handler: Handler) -> Callable[[bytes], Any] | None:
        """What is no message of the method is passed on as such."""
        decode = super().decoder(handler)
        return decode if handler.request_streaming else _tolerant(decode)

    def _request(self, behaviour: Any, method: str) -> Any:
        row = METHODS.get(method)
        if row is not None and row.changes:
            return self._audited(behaviour, method, row)

        async def guarded(request: Any, rpc: Rpc) -> Any:
            try:
                with self._let_in(rpc, row):
                    return await behaviour(_decoded(request), rpc)
            except HostdevError as error:
                self._note_denied(rpc, method, error)
                raise self._told(rpc, error) from None

        return guarded

    def _stream(self, behaviour: Any, method: str, handler: Handler) -> Any:
        row, streaming = METHODS.get(method), handler.request_streaming

        async def guarded(request: Any, rpc: Rpc) -> AsyncIterator[Any]:
            try:
                with self._let_in(rpc, row):
                    given = _while_they_come(request) if streaming else _decoded(request)
                    async for response in behaviour(given, rpc):
                        yield response
            except HostdevError as error:  # the error seam leaves such streams alone
                self._note_denied(rpc, method, error)
                await abort(rpc, self._told(rpc, error))

        return guarded

    def _audited(self, behaviour: Any, method: str, row: Method) -> Any:
        name = method.rpartition("/")[2]

        async def guarded(request: Any, rpc: Rpc) -> Any:
            entry = Entry(_asked(request, name, row, self._access.caller(rpc), self._now()))
            ENTRY.set(entry)
            try:
                with self._let_in(rpc, row, dry_run=entry.asked.dry_run):
                    response = await behaviour(_decoded(request), rpc)
            except HostdevError as error:
                self._note(entry, Outcome.REFUSED, error)
                raise self._told(rpc, error) from None
            except Exception as error:
                reason = "LIBVIRT_DISCONNECTED" if isinstance(error, HypervisorGone) else "UNEXPECTED"
                self._note(entry, Outcome.REFUSED, HostdevError(reason, "see the log"))
                raise
            self._note(entry, Outcome.DRY_RUN if entry.asked.dry_run else Outcome.UNCHANGED, _blocker(response))
            return response

        return guarded

    def _note_denied(self, rpc: Rpc, method: str, error: HostdevError) -> None:
        """Who tries what he may not even look at; other refusals of reads are of no interest to the audit."""
        if error.reason in _DENIED:
            asked = Asked.by(self._access.caller(rpc), method.rpartition("/")[2], self._now())
            self._audit.note(asked, Outcome.REFUSED, error)

    def _note(self, entry: Entry, outcome: Outcome, error: HostdevError | None = None) -> None:
        if not entry.accepted:  # else its end is written with the last state of what was begun
            self._audit.note(entry.asked, outcome, error)

    @contextmanager
    def _let_in(self, rpc: Rpc, row: Method | None, *, dry_run: bool = False) -> Iterator[None]:
        """Around a call that may run: it has its place as long."""
        if row is None:  # forgotten in the table: closed
            raise HostdevError("NOT_ALLOWED", "nobody may call this method")
        caller = self._access.caller(rpc)
        work, counts = Work.READS if dry_run else row.work, self._counts
        with nullcontext() if work is None or counts is None else counts.enter(work, caller.name):
            if row.permission is not None:
                self._access.require(caller, row.permission)
            if work is not None and counts is not None:
                counts.allowed(work)
            yield

    def _told(self, rpc: Rpc, error: HostdevError) -> HostdevError:
        return error_for(self._access.sight(rpc), error)


async def _while_they_come(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests of a stream, which ends when there is none for a while: an idle one keeps its place from others."""
    while True:
        try:
            async with asyncio.timeout(IDLE_S):
                request = await anext(requests)
        except (StopAsyncIteration, TimeoutError):
            return
        yield request


def _blocker(response: Any) -> HostdevError | None:
    """What a real call would have been refused for: the first blocker of the plan that was told, if there was one."""
    for blocker in response.plan.blockers if hasattr(response, "plan") else ():
        reason = error_pb2.ErrorReason.Name(blocker.code).removeprefix("ERROR_REASON_")
        return HostdevError(reason, blocker.message)
    return None


_UNDECODABLE = object()
"""What stands for a request that is no message of its method: it is refused, after it was asked who sends it."""


def _tolerant(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """What the library would answer by itself, in its own words, is left to the gate."""
    if decode is None:
        return None

    def tolerant(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return _UNDECODABLE

    return tolerant


def _decoded(request: Any) -> Any:
    if request is _UNDECODABLE:
        raise invalid_field("request", "is not a message of this method")
    return request


def _asked(request: Any, name: str, row: Method, caller: Caller, now: float) -> Asked:
    """What a request asks for, by the names that the log has for it too; the rest of it as JSON."""
    if request is _UNDECODABLE:
        return Asked.by(caller, name, now)
    fields = {field: called for field, called in row.names.items() if called in _OWN}
    said = {called: getattr(request, field) for field, called in fields.items()}
    size = request.ByteSize()
    arguments = f"{size} bytes" if size > _SHOWN_BYTES else _rest(request, ("host", "validate_only", *fields))
    dry_run = bool(getattr(request, "validate_only", False))
    return Asked.by(caller, name, now, dry_run=dry_run, **said, arguments=arguments)


def _rest(request: Any, but: Iterable[str]) -> str:
    """What else a request says, as JSON; a duration beyond a well-known type's bounds has no such form."""
    try:
        rest = MessageToDict(request, preserving_proto_field_name=True)
    except (SerializeToJsonError, ValueError):  # it is refused by its field
        return text_format.MessageToString(request, as_one_line=True)
    for key in but:
        rest.pop(key, None)
    return json.dumps(rest, separators=(",", ":")) if rest else ""
