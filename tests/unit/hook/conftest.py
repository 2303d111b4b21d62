from __future__ import annotations

from pathlib import Path

import pytest

from unit.hook.guarded import GuardedHost


@pytest.fixture
def host(tmp_path: Path) -> GuardedHost:
    return GuardedHost(tmp_path / "host")
