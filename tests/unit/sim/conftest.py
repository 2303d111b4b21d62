from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hostdevd.sim.simulation import simulate
from unit.sim.rig import Rig, SteppedClock


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    clock = SteppedClock()
    rig = Rig(simulate(clock, state_dir=tmp_path / "state"), clock)
    await rig.start()
    yield rig
    await rig.close()
