from __future__ import annotations

from pathlib import Path

import pytest

from unit.host.builder import HostBuilder


@pytest.fixture
def host(tmp_path: Path) -> HostBuilder:
    return HostBuilder(tmp_path)
