"""A life of hostdevd that a test may end as it likes, with its own state and socket.

Where the suite's service is systemd's there is one service on the host, so the life is the unit's: systemd does not
bring it back in between, and it is left running.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
from api import EVENTUALLY_S, Api, eventually
from hosts import BY_UNIT, UNIT, UNIT_ADDRESS, UNIT_STATE, never_restarted
from readiness import in_step

from production.systemctl import settings, shown, systemctl


@dataclass(frozen=True)
class Life:
    """One life of the service, in step with libvirt."""

    api: Api
    kill: Callable[[], None]
    """End it by SIGKILL; it is gone then, and stays so."""
    stop: Callable[[], None]
    """End it by SIGTERM; it must end well."""


def address_in(directory: Path) -> str:
    """Where a service with its state in this directory listens."""
    return UNIT_ADDRESS if BY_UNIT else f"unix:{directory}/own.sock"


def state_in(directory: Path) -> Path:
    """Where that service keeps its state."""
    return UNIT_STATE if BY_UNIT else directory / "state"


@contextmanager
def serving(directory: Path) -> Iterator[Life]:
    """One life of the service with its state in this directory; the next one goes on from where this one ended."""
    with _unit() if BY_UNIT else _process(directory) as ends, grpc.insecure_channel(address_in(directory)) as channel:
        api = Api(channel)
        in_step(api)
        yield Life(api, *ends)


class Lives:
    """One life after the other, each only as it is needed: to begin one takes half a minute in the lab."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()
        self._life: Life | None = None

    def now(self) -> Life:
        """The life that has not ended, or the next one."""
        if self._life is None:
            life = self._stack.enter_context(serving(self._directory))
            self._life = replace(life, kill=self._over(life.kill), stop=self._over(life.stop))
        return self._life

    def close(self) -> None:
        """End what still runs."""
        self._life = None
        self._stack.close()

    def _over(self, end: Callable[[], None]) -> Callable[[], None]:
        def ended() -> None:
            try:
                end()
            finally:
                self.close()

        return ended


Ends = tuple[Callable[[], None], Callable[[], None]]


@contextmanager
def _process(directory: Path) -> Iterator[Ends]:
    """Beside the suite's service; killed at the end when it still runs."""
    state, address = state_in(directory), address_in(directory)
    command = [sys.executable, "-m", "hostdevd", "serve", "--listen", address, "--state-dir", str(state)]
    log = Path(os.environ.get("LAB_OUTPUT", str(directory))) / "hostdevd-own.log"
    with (
        log.open("a") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):

        def end(number: signal.Signals) -> int:
            process.send_signal(number)
            return process.wait(EVENTUALLY_S)

        def stop() -> None:
            assert end(signal.SIGTERM) == 0, log.read_text()

        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("listening on"), log.read_text()
            yield lambda: _is(end(signal.SIGKILL), -signal.SIGKILL), stop
        finally:
            process.kill()


@contextmanager
def _unit() -> Iterator[Ends]:
    """The unit's, begun if it is dead, and left as the test leaves it: dead only for the next life to begin."""

    def kill() -> None:
        never_restarted()
        systemctl("kill", "--kill-whom=main", "--signal=KILL", UNIT)
        eventually(lambda: shown("ActiveState"), lambda state: state == "failed")

    def stop() -> None:
        never_restarted()
        systemctl("stop", UNIT)
        _is(shown("Result"), "success")

    try:
        with settings("Restart=no"):
            systemctl("start", UNIT)
            yield kill, stop
    except BaseException:
        systemctl("start", UNIT)  # the tests after this one need it
        raise


def _is(found: object, wanted: object) -> None:
    assert found == wanted
