"""Pages of a list: all from one revision and one set of arguments (api.md, "Conventions")."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.message import Message

from hostdevd.core.errors import HostdevError, invalid_field, invalid_token
from hostdevd.core.turns import Turn, at_one_revision

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 500
MAX_PAGE_SIZE = 1000
MAX_PAGE_BYTES = 2 * 1024 * 1024
TOKEN_LIFE_S = 300.0
MAX_LISTS = 4096
MAX_ITEMS = 1_000_000
"""Of all lists together: an item of ListEligible with what goes with it has about 64 bytes of its own."""
MADE_PAGES = 64
MADE_BYTES = 8 * 1024 * 1024
_TOKEN = struct.Struct("!8sQQ16s")


@dataclass(slots=True)
class Page:
    """One page, ready to be sent: `body` is the items as field 1 of the list's response, later all of it."""

    body: bytes
    next_page_token: str
    revision: int
    _is_whole: bool = False

    def response(self, kind: Callable[..., Message], resume_token: str) -> bytes:
        """The whole response, serialized: once, since to copy half a megabyte costs as much as all else of a call.

        Of one page every caller gets the same: its revision and its view, which the token is made of, are the page's.
        """
        if not self._is_whole:
            rest = kind(next_page_token=self.next_page_token, revision=self.revision, resume_token=resume_token)
            self.body, self._is_whole = self.body + rest.SerializeToString(), True
        return self.body


_Key = tuple[int, bytes]
"""Revision and arguments."""


@dataclass(slots=True)
class _List:
    items: Sequence[Any]
    expires: float
    callers: set[str] = field(default_factory=set)
    """Whose it is: those who got a token of it, and whose share has room for it."""


@dataclass(slots=True)
class _Share:
    """The lists of one caller, the one that he used last at the end."""

    lists: OrderedDict[_Key, None] = field(default_factory=OrderedDict)
    items: int = 0


class Pages:
    """The lists that somebody may be in the middle of; they hold references to views, not copies.

    Calls with the same arguments at the same revision share one list, which lives as long as the last
    token that was given for it. There is room for so many; who has most of them loses his oldest, and nobody else.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._now = monotonic
        self._instance = secrets.token_bytes(8)
        self._lists: OrderedDict[_Key, _List] = OrderedDict()
        """The first to expire comes first."""
        self._shares: dict[str, _Share] = {}
        """By caller; a list that several have counts for each."""
        self._made: OrderedDict[tuple[int, bytes, int, int], tuple[Page, int]] = OrderedDict()
        """Each with the bytes of its items, which is what counts as its size."""
        self._made_bytes = 0
        self._items = 0

    async def page(  # noqa: PLR0913, PLR0917  what a list is made of
        self,
        request: Any,
        current: Callable[[], int],
        select: Callable[[], Iterable[T | None]],
        encode: Callable[[T], bytes],
        view: str,
        caller: str,
    ) -> Page:
        """The page that a list request asks for; `select` is called for the first page only.

        `current` tells the revision that is shown now, `encode` gives an item as field 1 (`wire.entry`), `view` is
        what the caller may see (`Sight.view`): a page is for callers of one view. `caller` is who has the list then.
        Other calls are answered in between: long work is done in slices.
        """
        size = _size(request.page_size)
        arguments = _arguments(request, view)
        if request.page_token:
            revision, offset = self._read_token(request.page_token, arguments)
            known = self._lists.get((revision, arguments))
            if known is None or known.expires < self._now():
                raise HostdevError(
                    "REVISION_COMPACTED",
                    "the page token is too old; list again from the start",
                    metadata={"page_token_life_s": str(int(TOKEN_LIFE_S))},
                )
        else:
            offset, revision = 0, current()
            made = self._kept_page((revision, arguments, 0, size))
            if made is not None and not made.next_page_token:
                return made
            known = self._lists.get((revision, arguments))
            if known is None:
                revision, items = await at_one_revision(current, select)
                known = _List(items, 0.0)
        key = (revision, arguments)
        made = self._kept_page((*key, offset, size))
        if made is not None:
            if made.next_page_token:
                self._keep(key, known, caller)
            return made
        made = await self._make(key, known, offset, size, encode)
        if made.next_page_token:
            self._keep(key, known, caller)
        self._remember((*key, offset, size), made)
        return made

    async def _make(self, key: _Key, known: _List, offset: int, size: int, encode: Callable[[Any], bytes]) -> Page:
        parts: list[bytes] = []
        used, turn = 0, Turn()
        for item in known.items[offset : offset + size]:
            part = encode(item)
            used += len(part)
            if parts and used > MAX_PAGE_BYTES:
                break
            parts.append(part)
            if turn.is_over():
                await turn.next()
        end, body = offset + len(parts), b"".join(parts)
        if end >= len(known.items):
            return Page(body, "", key[0])
        return Page(body, self._token(key[0], end, key[1]), key[0])

    def _kept_page(self, key: tuple[int, bytes, int, int]) -> Page | None:
        found = self._made.get(key)
        return None if found is None else found[0]

    def _remember(self, key: tuple[int, bytes, int, int], made: Page) -> None:
        """Keep a page for the next who asks the same; the last megabytes of them."""
        size = len(made.body)
        if size > MADE_BYTES // 4:
            return
        before = self._made.get(key)  # of two callers at once, both made it
        self._made[key] = made, size
        self._made_bytes += size - (0 if before is None else before[1])
        while self._made_bytes > MADE_BYTES or len(self._made) > MADE_PAGES:
            self._made_bytes -= self._made.popitem(last=False)[1][1]

    def _keep(self, key: _Key, known: _List, caller: str) -> None:
        now = self._now()
        known = self._lists.setdefault(key, known)  # of two callers at once, both made it
        if not known.callers:
            self._items += len(known.items)
        known.expires = now + TOKEN_LIFE_S
        self._lists.move_to_end(key)
        share = self._shares.setdefault(caller, _Share())
        if key not in share.lists:
            known.callers.add(caller)
            share.items += len(known.items)
        share.lists[key] = None
        share.lists.move_to_end(key)
        while self._lists[oldest := next(iter(self._lists))].expires < now:
            for one in tuple(self._lists[oldest].callers):
                self._take(oldest, one)
        self._make_room(caller)

    def _make_room(self, caller: str) -> None:
        """Take from who has most until all is within its bounds; not what a caller has just got a token of."""
        while (too_many := len(self._lists) > MAX_LISTS) or self._items > MAX_ITEMS:
            has = {one: len(share.lists) if too_many else share.items for one, share in self._shares.items()}
            if len(self._shares[caller].lists) == 1:
                del has[caller]
            if not has:
                return
            most = max(has, key=lambda one: (has[one], one == caller))
            self._take(next(iter(self._shares[most].lists)), most)

    def _take(self, key: _Key, caller: str) -> None:
        """Take a list from a caller; with the last one who has it, it goes."""
        known, share = self._lists[key], self._shares[caller]
        known.callers.remove(caller)
        if not known.callers:
            del self._lists[key]
            self._items -= len(known.items)
        del share.lists[key]
        share.items -= len(known.items)
        if not share.lists:
            del self._shares[caller]

    def _token(self, revision: int, offset: int, arguments: bytes) -> str:
        return base64.urlsafe_b64encode(_TOKEN.pack(self._instance, revision, offset, arguments)).decode().rstrip("=")

    def _read_token(self, token: str, arguments: bytes) -> tuple[int, int]:
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            instance, revision, offset, told = _TOKEN.unpack(raw)
        except (binascii.Error, struct.error, ValueError):
            raise _invalid("is not one of this service's") from None
        if told != arguments:
            raise _invalid("belongs to other arguments")
        return (revision if instance == self._instance else -1), offset


def _invalid(why: str) -> HostdevError:
    return invalid_token("page_token", "INVALID_PAGE_TOKEN", why)


def _size(given: int) -> int:
    if given < 0:
        raise invalid_field("page_size", "must not be negative")
    return min(given or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def _arguments(request: Any, view: str) -> bytes:
    """What must stay the same from page to page: the request without its page fields, and what may be seen."""
    same = type(request)()
    same.CopyFrom(request)
    same.ClearField("page_size")
    same.ClearField("page_token")
    content = same.SerializeToString(deterministic=True)
    return hashlib.sha256(f"{type(request).__name__} {view} ".encode() + content).digest()[:16]
