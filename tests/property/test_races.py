"""32 clients race for 8 groups, a thousand times: one wins each, the others are told who, nobody waits for ever."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostdevd.core.assignments import Assignment, AssignmentState
from hostdevd.core.errors import HostdevError
from hostdevd.core.plan import AttachRequest
from hostdevd.core.release import DetachRequest
from hostdevd.core.sync import Pace
from property.scene import Scene

ROUNDS = 1000
CLIENTS = 32
ENOUGH_S = 120.0
"""In virtual time: a round's attaches and detaches take seconds each, a deadlock takes for ever."""

# By their members, each of which any client may name: alone, of two functions or ports, VFs, pre-bound to VFIO.
GROUPS = (
    ("pci_0000_01_00_0",),
    ("pci_0000_04_00_0", "pci_0000_04_00_1"),
    ("pci_0000_05_00_0", "pci_0000_06_00_0"),
    ("pci_0000_09_00_0",),
    ("pci_0000_0a_00_0",),
    ("pci_0000_0b_00_1",),
    ("pci_0000_0b_00_2",),
    ("pci_0000_15_00_0",),
)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, Pace(reconcile_s=60.0))
    made.sim.world.on_change = lambda: None  # nobody crashes here, so nothing need be kept
    yield made
    made.end()


def add_vms(scene: Scene) -> list[str]:
    """A VM for each client, every fourth one running: each takes what it has won."""
    controls, template = scene.sim.controls, scene.configs["alpha"]
    names = [f"racer-{number:02}" for number in range(CLIENTS)]
    for number, name in enumerate(names):
        uuid = f"c0ffee00-0000-4000-8000-0000000001{number:02}"
        xml = template.replace("<name>alpha<", f"<name>{name}<").replace("c0ffee00-0000-4000-8000-000000000001", uuid)
        assert scene.act(lambda xml=xml: controls.define_domain(xml))  # type: ignore[misc]
        if number % 4 == 1:
            assert scene.act(lambda name=name: controls.start_domain(name))  # type: ignore[misc]
    scene.rest()
    return names


@pytest.mark.timeout(900)
def test_exactly_one_of_those_that_race_for_a_group_wins_it(scene: Scene) -> None:  # noqa: C901  a round is one story
    vms = add_vms(scene)
    dice = random.Random(20)
    engine = scene.core.engine

    async def race() -> list[tuple[int, str, Assignment | HostdevError]]:
        async def client(vm: str, group: int) -> tuple[int, str, Assignment | HostdevError]:
            # Most come at once, some in the middle of what the winner does, some when it has won.
            await asyncio.sleep(dice.choice((0.0, 0.0, 0.0, 0.5, 5.0)))
            request = AttachRequest(vm, dice.choice(GROUPS[group]))
            try:
                outcome = await engine.attach(request, caller=vm, request_id="", validate_only=False, wait_s=60.0)
            except HostdevError as error:
                return group, vm, error
            assert outcome.assignment is not None
            return group, vm, outcome.assignment

        drawn = list(range(len(GROUPS))) * (CLIENTS // len(GROUPS))
        dice.shuffle(drawn)
        async with asyncio.timeout(ENOUGH_S):
            return await asyncio.gather(*(client(vm, group) for vm, group in zip(vms, drawn, strict=True)))

    async def give_back(won: list[Assignment]) -> None:
        async def one(assignment: Assignment) -> None:
            request = DetachRequest(assignment.name)
            outcome = await engine.detach(request, caller="test", validate_only=False, wait_s=60.0)
            assert outcome.assignment is not None
            assert outcome.assignment.state is AssignmentState.DETACHED
            assert outcome.assignment.conditions == ()

        async with asyncio.timeout(ENOUGH_S):
            await asyncio.gather(*map(one, won))

    uuids = {domain.vm.name: domain.vm.uuid for domain in scene.core.store.domains.values()}
    told: defaultdict[str, int] = defaultdict(int)
    for number in range(ROUNDS):
        winners: dict[int, str] = {}
        won: list[Assignment] = []
        results = scene.run(race())
        for group, vm, result in results:
            if isinstance(result, Assignment):
                assert result.state is AssignmentState.ATTACHED, (number, result)
                assert winners.setdefault(group, vm) == vm, (number, group)
                won.append(result)
        assert len(winners) == len(GROUPS), number
        for group, vm, result in results:
            if isinstance(result, HostdevError):
                assert result.reason in {"HELD_BY_OTHER_VM", "OPERATION_IN_PROGRESS"}, (number, vm, result)
                winner = winners[group]
                assert (result.metadata["vm_name"], result.metadata["vm_uuid"]) == (winner, uuids[winner]), (number, vm)
                told[result.reason] += 1
        scene.run(give_back(won))
        scene.check()
        assert scene.drivers() == scene.first_drivers, number
        for assignment in won:
            scene.run(engine.forget(assignment.name))
    assert set(told) == {"HELD_BY_OTHER_VM", "OPERATION_IN_PROGRESS"}, "one of the two refusals was never met"
    scene.check_at_rest()
