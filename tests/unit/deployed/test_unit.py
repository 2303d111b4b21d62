"""The systemd unit, as systemd itself judges it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

UNIT = Path(__file__).parents[3] / "deploy/systemd/hostdevd.service"
MOST_EXPOSED = 2.0


def analysed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def test_it_is_exposed_as_little_as_the_service_allows() -> None:
    told = analysed("security", "--offline=true", "--no-pager", str(UNIT))
    found = re.search(r"Overall exposure level for hostdevd\.service: ([0-9.]+)", told.stdout)
    assert found, told.stderr
    assert float(found[1]) <= MOST_EXPOSED
    # The figure at the unit's head is this one.
    assert f"gives {found[1]}." in UNIT.read_text()


def test_systemd_knows_every_line_of_it(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(
        re.sub(r"^ExecStart=/usr/bin/hostdevd", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    )
    told = analysed("verify", "--man=no", str(unit))
    assert (told.returncode, told.stderr) == (0, "")


def test_what_it_must_see_is_not_hidden_from_it() -> None:
    """Each of these would have the service refuse devices, or take callers for nobody: the unit's head says why."""
    settings = {line.partition("=")[0] for line in UNIT.read_text().splitlines() if re.match(r"[A-Z]\w+=", line)}
    hiding = {"PrivateNetwork", "PrivateDevices", "ProtectProc", "ProcSubset", "ProtectKernelModules", "PrivateUsers"}
    assert not settings & hiding
