"""Looking after assignments goes on after a fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from unit.core.rig import machine


async def test_a_fault_while_tending_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with machine(tmp_path) as on:
        calls = 0

        async def broken() -> None:
            nonlocal calls
            calls += 1
            raise ValueError("a fault")

        monkeypatch.setattr(on.core.engine._operations, "save_again", broken)
        tending = next(task for task in on.core.engine._tasks if task.get_name() == "upkeep-tend")
        await on.clock.sleep(100.0)
        assert calls > 1
        assert not tending.done()
