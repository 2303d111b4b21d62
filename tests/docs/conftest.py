"""What the documentation's commands need beside the project itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pages import ROOT


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    """Built from its module the first time, kept in the cache from then on."""
    built = subprocess.run([ROOT / "deploy" / "grpcurl"], check=True, stdout=subprocess.PIPE, text=True)
    return Path(built.stdout.strip())
