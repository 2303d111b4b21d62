"""The same stick in another port: what keeps its uid, and what does not because it would be a guess."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from api import eventually, refused
from hosts import LabHost, lab_roles

from hostdev.v1 import error_pb2

LONG_S = 180.0
HOME = {"stick1": "4", "twin_a": "2", "twin_b": "3"}
SERIALS = {"stick1": "STICK1", "twin_a": "TWIN", "twin_b": "TWIN"}


def plug(role: str, port: str) -> None:
    stick = ("driver=usb-storage", f"id={role}", f"drive={role}", f"serial={SERIALS[role]}")
    subprocess.run(["lab-qmp", "device_add", *stick, "bus=usb.0", f"port={port}"], check=True)


def unplug(role: str) -> None:
    subprocess.run(["lab-qmp", "device_del", f"id={role}"], check=True)


class Sticks:
    """Sticks by the port they are in."""

    def __init__(self, lab: LabHost) -> None:
        self._lab = lab
        self._bus = lab.roles["stick1"].rpartition("_")[0]

    def uid(self, port: str) -> str:
        """The uid of the stick in a port, once it and its LUN are there."""
        name = f"{self._bus}_{port}"
        eventually(self._luns, lambda luns: name in luns, LONG_S)
        return self._lab.api.device(name).uid

    def gone(self, *ports: str) -> None:
        """Wait until nothing is in these ports."""
        names = {f"{self._bus}_{port}" for port in ports}
        eventually(lambda: names & {device.name for device in self._lab.api.devices()}, _is_empty, LONG_S)

    def _luns(self) -> set[str]:
        """The sticks whose LUN is listed."""
        luns = self._lab.api.devices(types=["scsi"])
        return {reason.subject for lun in luns for reason in lun.eligibility.reasons if _covers(reason)}

    @contextmanager
    def elsewhere(self, **ports: str) -> Iterator[None]:
        """These sticks in these ports instead of their own, all unplugged first."""
        for role in ports:
            unplug(role)
        self.gone(*(HOME[role] for role in ports))
        try:
            for role, port in ports.items():
                plug(role, port)
            yield
        finally:
            for role in ports:
                unplug(role)
            self.gone(*ports.values())
            for role in ports:
                plug(role, HOME[role])
                self.uid(HOME[role])


def _covers(reason: error_pb2.Reason) -> bool:
    return reason.code == error_pb2.ERROR_REASON_COVERED_BY_PARENT


def _is_empty(found: set[str]) -> bool:
    return not found


def test_a_stick_with_a_serial_keeps_its_uid_in_another_port(lab: LabHost) -> None:
    sticks = Sticks(lab)
    before = sticks.uid("4")
    with sticks.elsewhere(stick1="6"):
        assert sticks.uid("6") == before
        assert lab.api.device(before).name == lab_roles()["stick1"]
    assert sticks.uid("4") == before


@pytest.mark.full
def test_a_twin_keeps_its_uid_in_another_port_while_the_other_stays(lab: LabHost) -> None:
    sticks = Sticks(lab)
    a, b = sticks.uid("2"), sticks.uid("3")
    with sticks.elsewhere(twin_b="7"):
        assert (sticks.uid("2"), sticks.uid("7")) == (a, b)  # the only one of its kind that was missing
    assert (sticks.uid("2"), sticks.uid("3")) == (a, b)


def test_of_twins_that_change_places_the_port_decides(lab: LabHost) -> None:
    sticks = Sticks(lab)
    a, b = sticks.uid("2"), sticks.uid("3")
    with sticks.elsewhere(twin_a="3", twin_b="2"):
        assert (sticks.uid("2"), sticks.uid("3")) == (a, b)  # nothing that a host can read differs
    assert (sticks.uid("2"), sticks.uid("3")) == (a, b)


@pytest.mark.full
def test_of_twins_that_both_moved_nothing_is_guessed(lab: LabHost) -> None:
    sticks = Sticks(lab)
    a, b = sticks.uid("2"), sticks.uid("3")
    with sticks.elsewhere(twin_a="6", twin_b="7"):
        assert len({a, b, sticks.uid("6"), sticks.uid("7")}) == 4
        for uid in (a, b):
            assert uid not in {device.uid for device in lab.api.devices()}
            with refused("AMBIGUOUS_DEVICE") as caught:
                lab.api.attach("alpha", uid)
            candidates = caught[0].info.metadata["candidates"].split(",")
            assert {lab.api.device(name).uid for name in candidates} == {sticks.uid("6"), sticks.uid("7")}
    assert (sticks.uid("2"), sticks.uid("3")) == (a, b)
