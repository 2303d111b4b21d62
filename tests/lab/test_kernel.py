"""What the lab host's kernel says of all that was done to it; run after everything else of a boot."""

from __future__ import annotations

import subprocess


def test_the_kernel_has_nothing_to_complain_about() -> None:
    lines = subprocess.run(["dmesg"], check=True, capture_output=True, text=True).stdout.splitlines()
    assert any("IOMMU" in line or "DMAR" in line for line in lines), "these are not the boot's messages"
    bad = [line for line in lines if any(word in line for word in ("WARNING:", "BUG:", "Oops", "DMAR: [DMA"))]
    # A processor that stood still says how busy the machine is on which this one is emulated.
    assert [line for line in bad if "lockup" not in line] == []
