"""One boot of the lab from outside: with a state that is kept, and perhaps with other hardware."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
TOPOLOGY = REPOSITORY / "deploy/lab/topology.toml"
_ATTEMPTS = 3
_MACHINE_DIED = 2


@dataclass(frozen=True)
class Boot:
    """What hostdevd told in one boot, and what the boot's own script printed."""

    devices: list[dict[str, Any]]
    checks: dict[str, dict[str, str]]
    said: str

    def by_label(self, key: str) -> dict[str, set[str]]:
        """The values of a field, by label; devices that nothing tells apart share one."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for device in self.devices:
            found[device["label"]].add(device[key])
        return dict(found)

    def of_type(self, type_: str) -> list[dict[str, Any]]:
        return [device for device in self.devices if device["type"] == type_]


def boot(
    directory: Path, name: str, *options: str, topology: Path = TOPOLOGY, before: str = "", after: str = ""
) -> Boot:
    """Boot with the state below `directory`; a script, the record, a script; switch off."""
    output = directory / name
    script = f"set -e\n{before}\n{shlex.quote(sys.executable)} tests/boots/record.py\n{after}"
    said = run_in_boot(directory, script, "--output", str(output), *options, topology=topology)
    return Boot(**json.loads((output / "record.json").read_text()), said=said)


def run_in_boot(directory: Path, script: str, *options: str, topology: Path = TOPOLOGY) -> str:
    """What a script printed in a boot with the state below `directory`, without guests.

    The emulated machine's death is tried again, with the state as it was before: half of a script may be done.
    """
    places = ("server", "clients/python", "tests/contract")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(REPOSITORY / place) for place in places)}
    state = directory / "state"
    state.mkdir(exist_ok=True)
    whole = [
        "deploy/lab/run", "--quiet", "--boot-only-host", "--timeout", "900", "--topology", str(topology),
        "--state", str(state), *options, "--", "sh", "-c", script,
    ]  # fmt: skip
    disk, kept = state / "state.img", directory / "state.kept"
    if disk.exists():
        _copy(disk, kept)
    for attempt in range(1, _ATTEMPTS + 1):
        done = subprocess.run(whole, cwd=REPOSITORY, env=environment, check=False, capture_output=True, text=True)
        if done.returncode != _MACHINE_DIED:
            break
        print(  # noqa: T201  aloud, never silent
            f"the lab's machine died (attempt {attempt} of {_ATTEMPTS})", done.stderr, file=sys.stderr
        )
        disk.unlink(missing_ok=True)
        if kept.exists():
            _copy(kept, disk)
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _copy(disk: Path, to: Path) -> None:
    """Most of it is holes."""
    subprocess.run(["cp", "--sparse=always", str(disk), str(to)], check=True)
