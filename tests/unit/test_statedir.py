"""The state directory belongs to one service, also where it cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hostdevd.statedir import StateDirectory, StateDirError


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What root's own tests cannot have from permissions: nothing may be opened for writing."""
    real = os.open

    def refuse(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, mode)

    monkeypatch.setattr("hostdevd.statedir.os.open", refuse)


def test_a_directory_is_made_and_held_by_one(tmp_path: Path) -> None:
    place = tmp_path / "state"
    with StateDirectory(place) as state:
        assert place.stat().st_mode & 0o777 == 0o700
        state.claim()  # again is nothing new
        with pytest.raises(StateDirError, match=r"another hostdevd uses it"), StateDirectory(place):
            pass
    with StateDirectory(place):
        pass


@pytest.mark.parametrize("place", ["missing/state", "file/state", "file"])
def test_a_mistake_in_the_options_ends_the_start(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateDirError, match=place), StateDirectory(tmp_path / place):
        pass


def test_what_cannot_be_written_starts_without_the_lock_and_gets_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as during:
        read_only(during)
        first = StateDirectory(tmp_path).__enter__()
        second = StateDirectory(tmp_path).__enter__()
        for one in (first, second):
            with pytest.raises(OSError, match=r"Read-only") as refused:
                one.claim()
            assert refused.value.errno == errno.EROFS
    first.claim()
    # Both were up before there was a lock: only one of them writes.
    with pytest.raises(BlockingIOError, match=r"another hostdevd uses it"):
        second.claim()
    first.__exit__()
    second.claim()
    second.__exit__()


def test_a_lock_on_what_is_read_only_still_tells_of_another_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StateDirectory(tmp_path):
        read_only(monkeypatch)
        with pytest.raises(StateDirError, match=r"another hostdevd uses it"), StateDirectory(tmp_path):
            pass
    with StateDirectory(tmp_path) as state:
        state.claim()
