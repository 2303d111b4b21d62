"""How many calls of one visitor are on their way at the same time, and how they are counted."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Callable

import pytest

from hostdevd.front import turnstile
from hostdevd.front.turnstile import (
    LEAST_BYTES,
    MOST_BYTES,
    MOST_PENDING,
    EncryptedTurnstile,
    Http2Calls,
    Passage,
    Pulse,
    Turnstile,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + bytes((kind, 0)) + b"\0\0\0\1" + payload


def conversation(calls: int, random_: random.Random) -> bytes:
    frames = [frame(SETTINGS, b"")]
    for _ in range(calls):
        frames += [frame(HEADERS, random_.randbytes(random_.randrange(60)))]
        frames += [frame(DATA, random_.randbytes(random_.choice((5, 300, 20_000))))]
        frames += [frame(PING, b"\1" * 8)] * random_.randrange(2)
    return PREFACE + b"".join(frames)


@pytest.mark.parametrize("seed", range(20))
def test_calls_are_counted_however_the_bytes_are_cut(seed: int) -> None:
    random_ = random.Random(seed)
    data, counting, found, at = conversation(40, random_), Http2Calls(), 0, 0
    while at < len(data):
        size = random_.choice((1, 2, 5, 9, 10, 100, 2048))
        found += counting.count(memoryview(data)[at : at + size])
        at += size
    assert found == 40


def test_whatever_is_no_http2_is_counted_without_a_fault() -> None:
    random_, counting = random.Random(1), Http2Calls()
    for _ in range(1000):
        assert counting.count(memoryview(random_.randbytes(random_.randrange(1, 2048)))) >= 0


async def test_it_is_open_until_enough_are_on_their_way_and_again_when_they_have_begun() -> None:
    gate, gone_on = Turnstile(asyncio.get_running_loop()), list[int]()
    passage = gate.passage()
    gate.passed(passage, MOST_PENDING - 1)
    assert gate.is_open
    gate.passed(passage, 2)
    assert not gate.is_open
    for number in range(3):
        gate.wait(lambda number=number: gone_on.append(number))
    gate.begun(passage)
    assert not gone_on
    gate.begun(passage)
    assert gone_on == [0, 1, 2]
    for _ in range(100):
        gate.begun(passage)
    assert not gate.has_pending(passage)
    gate.close()


async def test_calls_that_are_never_begun_do_not_close_it_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnstile, "LOST_S", 0.02)
    gate, gone_on = Turnstile(asyncio.get_running_loop()), asyncio.Event()
    passage = gate.passage()
    gate.passed(passage, 1000)
    gate.wait(gone_on.set)
    for _ in range(4):  # as long as calls begin, those before them have not been lost
        gate.begun(passage)
        await asyncio.sleep(0.01)
        assert not gone_on.is_set()
    await asyncio.wait_for(gone_on.wait(), 5)
    assert not gate.has_pending(passage)


async def test_what_a_connection_had_on_its_way_is_void_with_it() -> None:
    gate, gone_on = Turnstile(asyncio.get_running_loop()), list[str]()
    stays, goes = gate.passage(), gate.passage()
    gate.passed(stays, 3)
    gate.passed(goes, 1000)
    gate.wait(lambda: gone_on.append("on"))
    for _ in range(3):
        gate.begun(goes)  # of the other one none
    assert gate.has_pending(stays)
    assert not gone_on
    gate.left(goes)
    assert gone_on == ["on"]
    gate.left(goes)
    gate.passed(stays, MOST_PENDING - 4)
    assert gate.is_open
    gate.passed(stays, 1)
    assert not gate.is_open
    gate.close()


class Service:
    """Stands where the service does: a queue of calls, one of which is begun every so often."""

    def __init__(self, gate: EncryptedTurnstile, pulse: Pulse) -> None:
        self.gate = gate
        self.passage: Passage = gate.passage()
        self.queue = 0
        self.longest = 0
        self._pulse = pulse
        self._loop = asyncio.get_running_loop()

    def came(self, calls: int) -> None:
        if not self.queue and calls:
            self._loop.call_later(0.0003, self._begin)
        self.queue += calls
        self.longest = max(self.longest, self.queue)

    def _begin(self) -> None:
        self.queue -= 1
        self._pulse.beats += 1
        self.gate.begun(self.passage)
        if self.queue:
            self._loop.call_later(0.0003, self._begin)

    async def send(self, size: int, bytes_a_call: int | None) -> None:
        """Have bytes pass as a connection does, each so many of them a call, or none."""
        left, rest = size, 0
        while left > 0:
            if not self.gate.is_open:
                gone_on = asyncio.Event()
                self.gate.wait(gone_on.set)
                await gone_on.wait()
                continue
            turn = min(left, 2048)
            left -= turn
            self.passage.passed(memoryview(bytes(turn)))
            if bytes_a_call is not None:
                calls, rest = divmod(rest + turn, bytes_a_call)
                self.came(calls)
            await asyncio.sleep(0)


@pytest.fixture
async def encrypted() -> AsyncIterator[Service]:
    pulse = Pulse()
    gate = EncryptedTurnstile(asyncio.get_running_loop(), pulse)
    yield Service(gate, pulse)
    gate.close()


async def test_under_tls_a_long_request_passes_at_once_and_a_bit_more_each_time(encrypted: Service) -> None:
    asked = 0
    wait = encrypted.gate.wait

    def counted(go_on: Callable[[], None]) -> None:
        nonlocal asked
        asked += 1
        wait(go_on)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EncryptedTurnstile, "wait", lambda _, go_on: counted(go_on))
        await asyncio.wait_for(encrypted.send(1024 * 1024, None), 10)
    assert asked <= 24  # each of which takes some milliseconds


@pytest.mark.parametrize("bytes_a_call", [50, 90, 300])
@pytest.mark.parametrize("before", [0, 256 * 1024], ids=["fresh", "after a long request"])
async def test_under_tls_a_flood_waits_for_the_calls_that_it_is(
    encrypted: Service, bytes_a_call: int, before: int
) -> None:
    await encrypted.send(before, None)
    encrypted.came(1)
    await asyncio.sleep(0.02)
    encrypted.longest = 0
    await asyncio.wait_for(encrypted.send(600 * bytes_a_call, bytes_a_call), 30)
    # What passed at first after a request passes once; nothing is added to it, however many there are.
    assert encrypted.longest <= (LEAST_BYTES if not before else MOST_BYTES) / bytes_a_call + 2048 / bytes_a_call + 1


async def test_under_tls_more_than_a_few_calls_end_what_a_long_request_was_given(encrypted: Service) -> None:
    await encrypted.send(256 * 1024, None)
    gate, passage = encrypted.gate, encrypted.passage
    gate.left(passage)
    gate.passed(passage, 4 * LEAST_BYTES)
    assert gate.is_open
    for _ in range(MOST_PENDING + 1):
        gate.begun(passage)
    assert not gate.is_open  # without waiting until it is quiet


async def test_under_tls_bytes_behind_the_calls_of_others_wait_longer_but_not_for_ever() -> None:
    pulse = Pulse()
    loop = asyncio.get_running_loop()
    gate, gone_on = EncryptedTurnstile(loop, pulse), asyncio.Event()
    passage = gate.passage()
    gate.passed(passage, LEAST_BYTES)
    gate.wait(gone_on.set)
    turns = 0
    while not gone_on.is_set():  # somebody else's calls begin all the time
        pulse.beats += 1
        turns += 1
        await asyncio.sleep(0.001)
    assert turns > 2 * turnstile.QUIET_TICKS
    gate.close()
