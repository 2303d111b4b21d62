"""Fixtures of the tests of the clients in other languages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clients.simulated import Simulated, simulating


@pytest.fixture
def simulated_server() -> Iterator[Simulated]:
    """One service, fresh."""
    with simulating() as served:
        yield served
