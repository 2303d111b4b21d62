"""Fixtures of the tests of the clients in other languages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from clients.simulated import Simulated, simulating


@pytest.fixture
def simulated_server() -> Iterator[Simulated]:
    """One service, fresh."""
    with simulating() as served:
        yield served


@pytest.fixture
def simulated_servers() -> Iterator[Callable[[], Simulated]]:
    """As many fresh services as it is called for."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(simulating())
