"""How many calls of one visitor are on their way at the same time, and how they are counted."""

from __future__ import annotations

import asyncio
import random
import struct

import pytest

from hostdevd.front import turnstile
from hostdevd.front.turnstile import MOST_PENDING, EncryptedCalls, Http2Calls, Turnstile

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


def test_encrypted_calls_are_estimated() -> None:
    counting = EncryptedCalls()
    assert sum(counting.count(memoryview(bytes(100))) for _ in range(256)) == 100


async def test_it_is_open_until_enough_are_on_their_way_and_again_when_they_have_begun() -> None:
    gate, gone_on = Turnstile(asyncio.get_running_loop()), list[int]()
    assert gate.is_unused
    gate.passed(MOST_PENDING - 1)
    assert gate.is_open
    gate.passed(2)
    assert not gate.is_open
    for number in range(3):
        gate.wait(lambda number=number: gone_on.append(number))
    gate.begun()
    assert not gone_on
    gate.begun()
    assert gone_on == [0, 1, 2]
    for _ in range(100):
        gate.begun()
    assert gate.is_unused
    gate.close()


async def test_calls_that_are_never_begun_do_not_close_it_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnstile, "LOST_S", 0.02)
    gate, gone_on = Turnstile(asyncio.get_running_loop()), asyncio.Event()
    gate.passed(1000)
    gate.wait(gone_on.set)
    for _ in range(4):  # as long as calls begin, those before them have not been lost
        gate.begun()
        await asyncio.sleep(0.01)
        assert not gone_on.is_set()
    await asyncio.wait_for(gone_on.wait(), 5)
    assert gate.is_unused
