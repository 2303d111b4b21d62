"""Lists that go on: what is there, then every row that is new, has changed or has gone.

    =  a row of the beginning    +  new or changed    -  gone

The server says when something has changed; then the list is asked for again, so its rows are always the API's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.json_format import MessageToDict

from hostdev.cli.output import Output, compact, line, note
from hostdev.cli.session import Session
from hostdev.cli.words import plain
from hostdev.errors import HostdevApiError
from hostdev.listing import Listing
from hostdev.progress import Patience
from hostdev.v1 import service_pb2

Item = TypeVar("Item", bound=Any)
_AGAIN = frozenset({"REVISION_COMPACTED"})
"""Reasons of a list that changed too much while its pages were walked."""

Message = service_pb2.WatchHoldersResponse | service_pb2.WatchDevicesResponse


@dataclass(frozen=True, slots=True)
class Rows(Generic[Item]):
    """A list to follow: how it is fetched, what names an entry, and its one line for people."""

    fetch: Callable[[], Listing[Item]]
    name: Callable[[Item], str]
    text: Callable[[Item], str]


def follow_rows(
    session: Session,
    rows: Rows[Item],
    watch: Callable[[str], Iterable[Message]],
    patience: Patience = Patience(),  # noqa: B008 (frozen)
) -> None:
    """Print the rows, and every change of them, until interrupted. `watch` begins at a token."""
    listing = rows.fetch()
    known: dict[str, Any] = {}
    for change in _changes(known, listing, rows, "="):
        _print(session, *change)
    for message in watch(listing.resume_token):
        del message  # it says that something happened, or that time has passed
        for change in _changes(known, _fetched(rows, patience), rows, "+"):
            _print(session, *change)


def _fetched(rows: Rows[Item], patience: Patience) -> list[Item]:
    """The whole list, asked for until it comes: the server restarts under a list as it does under a watch."""
    failures = 0
    while True:
        try:
            return list(rows.fetch())
        except HostdevApiError as error:
            if not (error.unreachable or error.code is grpc.StatusCode.CANCELLED or error.reason in _AGAIN):
                raise
            failures += 1
            pause_s = patience.pause_s(failures, error.retry_after_s)
            tell_interruption(error, pause_s)
            patience.pause(pause_s)


def _changes(
    known: dict[str, tuple[dict[str, Any], str]], found: Iterable[Item], rows: Rows[Item], sign: str
) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    now = {rows.name(one): (MessageToDict(one), rows.text(one)) for one in found}
    gone = [(name, *known[name]) for name in known if name not in now]
    fresh = [(name, *row) for name, row in now.items() if known.get(name) != row]
    known.clear()
    known.update(now)
    yield from (("-", *one) for one in gone)
    yield from ((sign, *one) for one in fresh)


def _print(session: Session, sign: str, name: str, message: dict[str, Any], text: str) -> None:
    match session.output:
        case Output.JSON:
            kind = "CHANGE_KIND_REMOVE" if sign == "-" else "CHANGE_KIND_UPSERT"
            line(compact({"kind": kind, "item": message}), flush=True)
        case Output.NAME:
            line(plain(name), flush=True)
        case Output.TABLE:
            line(f"{sign}  {plain(text)}", flush=True)


def tell_interruption(error: HostdevApiError, pause_s: float) -> None:
    """On standard error: the lines above may be old for so long."""
    note(f"hostdevctl: the watch was interrupted ({error}); going on in {pause_s:.1f} s")
