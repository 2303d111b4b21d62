"""One boot of the lab from outside: with a state that is kept, and perhaps with other hardware."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
TOPOLOGY = REPOSITORY / "deploy/lab/topology.toml"
_ATTEMPTS = 3
_MACHINE_DIED = 2


@dataclass(frozen=True)
class Record:
    """What hostdevd told in one boot."""

    devices: list[dict[str, Any]]
    checks: dict[str, dict[str, str]]

    def by_label(self, key: str) -> dict[str, set[str]]:
        """The values of a field, by label; devices that nothing tells apart share one."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for device in self.devices:
            found[device["label"]].add(device[key])
        return dict(found)

    def of_type(self, type_: str) -> list[dict[str, Any]]:
        return [device for device in self.devices if device["type"] == type_]


def boot(directory: Path, name: str, *options: str, topology: Path = TOPOLOGY) -> Record:
    """Boot with the state below `directory`, record, switch off."""
    output = directory / name
    run_in_boot(directory / "state", topology, sys.executable, "tests/boots/record.py", options=(
        "--output", str(output), *options))  # fmt: skip
    return Record(**json.loads((output / "record.json").read_text()))


def run_in_boot(state: Path, topology: Path, *command: str, options: Sequence[str] = ()) -> str:
    """What a command printed in a boot with this state, without guests. The emulated machine's death is tried again."""
    places = ("server", "clients/python", "tests/contract")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(REPOSITORY / place) for place in places)}
    whole = [
        "deploy/lab/run", "--quiet", "--boot-only-host", "--timeout", "300", "--topology", str(topology),
        "--state", str(state), *options, "--", *command,
    ]  # fmt: skip
    for attempt in range(1, _ATTEMPTS + 1):
        done = subprocess.run(whole, cwd=REPOSITORY, env=environment, check=False, capture_output=True, text=True)
        if done.returncode != _MACHINE_DIED:
            break
        print(  # noqa: T201  aloud, never silent
            f"the lab's machine died (attempt {attempt} of {_ATTEMPTS})", done.stderr, file=sys.stderr
        )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
