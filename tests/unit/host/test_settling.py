"""A disk that udev has not seen yet makes nothing unknown for good, and a lasting gap is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hostdevd.core.model import HostUses
from hostdevd.host import running
from hostdevd.host.running import RunningHost

GAP = HostUses(unknown=(("storage", "no udev record of sdz"),))
WHOLE = HostUses()


@pytest.fixture
def host(tmp_path: Path) -> RunningHost:
    return RunningHost(tmp_path)


def answers(monkeypatch: pytest.MonkeyPatch, *given: HostUses) -> list[int]:
    """What the reads find, one after the other, the last one for ever; counts the reads."""
    reads: list[int] = []

    def following() -> Iterator[HostUses]:
        yield from given
        while True:
            yield given[-1]

    found = following()

    def read(*_: object) -> HostUses:
        reads.append(1)
        return next(found)

    monkeypatch.setattr(running, "read_uses", read)
    return reads


async def test_a_gap_that_closes_is_not_told(host: RunningHost, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, WHOLE, GAP, GAP, WHOLE)
    assert await host.uses() == WHOLE
    assert await host.uses() == WHOLE


async def test_a_gap_that_stays_is_told_and_then_waited_for_no_more(
    host: RunningHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SETTLE_S", 0.15)
    reads = answers(monkeypatch, WHOLE, GAP)
    assert await host.uses() == WHOLE
    assert await host.uses() == GAP
    before = len(reads)
    assert before > 2
    assert await host.uses() == GAP
    assert len(reads) == before + 1


async def test_the_first_answer_does_not_wait_for_a_gap_to_close(
    host: RunningHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = answers(monkeypatch, GAP, WHOLE)
    assert await host.uses() == GAP
    assert len(reads) == 1
    assert await host.uses() == WHOLE
