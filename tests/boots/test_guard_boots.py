"""A configured device over reboots: nobody else's is started in its place, and it follows its VM by itself.

In the first boot hostdevd assigns a card to a shut-off VM. In the second other cards are in front of all, so that the
buses are numbered anew: libvirt starts VMs before hostdevd, and the hook refuses; then hostdevd writes the new
address. In the third nothing moved, and the VM starts with its card without hostdevd.
"""

from __future__ import annotations

import pytest

from boots.lab_boot import Boot

pytestmark = pytest.mark.timeout(2700)


def test_a_vm_whose_card_moved_is_refused_until_its_definition_has_the_new_address(first: Boot, moved: Boot) -> None:
    was = first.said.partition("was at ")[2].split()[0]
    now = moved.said.partition("is at ")[2].split()[0]
    assert was != now, "the cards in front moved nothing"
    assert f"{was} is not the device that was assigned" in moved.said
    assert f"the assigned one is at {now}" in moved.said
    assert "STARTED WITH ANOTHER" not in moved.said
    assert "driver vfio-pci" in moved.said


@pytest.mark.full
def test_a_vm_whose_card_did_not_move_starts_without_hostdevd_and_gives_it_back(again: str) -> None:
    assert "driver vfio-pci" in again
    assert "given back to e1000e" in again
