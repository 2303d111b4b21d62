"""A server that is frozen is found out by its silence, and a watch goes on when it lives again."""

from __future__ import annotations

import signal
from pathlib import Path

from cli.test_server import running
from hostdev import HostdevApiError, HostdevClient, Patience


def test_a_frozen_server_is_found_after_three_silent_intervals_and_the_watch_goes_on(tmp_path: Path) -> None:
    state, socket = str(tmp_path / "state"), f"unix:{tmp_path}/h.sock"
    with running("--simulate", "--listen", socket, "--state-dir", state) as (process, (address,)):
        told: list[HostdevApiError] = []

        def interrupted(error: HostdevApiError, _: float) -> None:
            told.append(error)
            process.send_signal(signal.SIGCONT)

        with HostdevClient(address) as client:
            watch = client.watch_holders(patience=Patience(1.0, interrupted=interrupted))
            assert [next(watch).WhichOneof("event") for _ in range(2)] == ["snapshot", "bookmark"]
            process.send_signal(signal.SIGSTOP)
            while not told:
                message = next(watch)  # bookmarks that were under way
            assert "no sign of life" in told[0].message
            assert message.WhichOneof("event") == "bookmark", "it resumed, and nothing had changed"
            watch.close()
