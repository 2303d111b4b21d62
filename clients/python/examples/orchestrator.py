#!/usr/bin/env python3
"""Gives the first free network card to a VM, follows it there, and takes it back: orchestrator.py [ADDRESS] [--vm VM].

What an orchestrator does, in the smallest form: look, plan, attach, follow until the VM has it, detach, follow until
it is gone. ADDRESS is HOSTDEV_ADDRESS when it is left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable

from hostdev import HostdevApiError, HostdevClient
from hostdev.v1 import assignment_pb2, device_pb2, holder_pb2, service_pb2

NETWORK = device_pb2.DeviceFilter(types=["pci"], pci_classes=["02"])


def main() -> None:
    """Do the job and tell each step."""
    parser = argparse.ArgumentParser(description="Give a network card to a VM and take it back.")
    parser.add_argument("address", nargs="?", help="unix:/path or host:port; default HOSTDEV_ADDRESS")
    parser.add_argument("--vm", default="alpha", help="the VM's name (default: %(default)s)")
    arguments = parser.parse_args()
    with HostdevClient(arguments.address) as client:
        try:
            orchestrate(client, arguments.vm)
        except HostdevApiError as error:
            remedies = [f"\n  {reason.message}: {reason.remedy}" for reason in error.reasons]
            sys.exit(f"{error}{''.join(remedies)}")


def orchestrate(client: HostdevClient, vm: str) -> None:
    """Look, plan, attach, follow, detach, follow."""
    found = next(client.list_eligible(NETWORK, available_only=True), None)
    if found is None:
        sys.exit("no network card is free")
    device = found.device.name
    print(f"device {device} ({found.device.pci.class_name})")
    affected = sorted(found.affected, key=lambda one: one.name)
    named = ", ".join(f"{one.name} {affected_role(one)}" for one in affected)
    print(f"affected {len(affected)}: {named}" if named else "affected 0")

    plan = client.attach(vm, device, scope=assignment_pb2.SCOPE_LIVE, validate_only=True).plan
    if plan.blockers:
        sys.exit("; ".join(f"{one.message}: {one.remedy}" for one in plan.blockers))
    print("plan:", "; ".join(f"{step_kind(step)} {step.device}" for step in plan.steps))

    # From here on every change is seen, whenever the watch begins.
    before = client.list_holders(vms=[vm]).resume_token
    expected = [one.uid for one in plan.affected]
    attached = client.attach(vm, device, scope=assignment_pb2.SCOPE_LIVE, expected_affected=expected).assignment
    ours = sorted(attached.devices, key=lambda one: one.name)
    print("attached:", ", ".join(f"{one.name} {role(one)} {one.current_driver}<-{one.original_driver}" for one in ours))
    names = {one.name for one in ours}

    watch = client.watch_holders(vms=[vm], resume_token=before)
    live: set[str] = set()
    follow(watch, live, until=lambda: names <= live)
    print("seen:", ", ".join(f"UPSERT {name} live" for name in sorted(names)))
    detached = client.detach(assignment=attached.name).assignment
    print("detached:", state(detached))
    follow(watch, live, until=lambda: not names & live)
    print("gone:", ", ".join(f"REMOVE {name}" for name in sorted(names)))
    watch.close()


def follow(watch: Iterable[service_pb2.WatchHoldersResponse], live: set[str], until: Callable[[], bool]) -> None:
    """Keep the names of the devices that the VM has live, until they are as wanted."""
    for message in watch:
        if message.HasField("reset"):
            live.clear()  # a snapshot follows
        live.update(holder.device for holder in message.snapshot.holders if holder.live)
        for change in message.change_batch.changes:
            if change.kind == service_pb2.CHANGE_KIND_UPSERT and change.holder.live:
                live.add(change.holder.device)
            else:
                live.discard(change.holder.device)
        # Within a snapshot there is no token: what it has not told yet is not gone.
        if message.resume_token and until():
            return


def affected_role(affected: device_pb2.AffectedDevice) -> str:
    """ENDPOINT or CHILD."""
    return device_pb2.AffectedDeviceRole.Name(affected.role).removeprefix("AFFECTED_DEVICE_ROLE_")


def step_kind(step: assignment_pb2.PlanStep) -> str:
    """HOST_DETACH and the like."""
    return assignment_pb2.PlanStepKind.Name(step.kind).removeprefix("PLAN_STEP_KIND_")


def role(device: assignment_pb2.AssignmentDevice) -> str:
    """VISIBLE or RESERVED."""
    return holder_pb2.HolderRole.Name(device.role).removeprefix("HOLDER_ROLE_")


def state(assignment: assignment_pb2.Assignment) -> str:
    """DETACHED and the like."""
    return assignment_pb2.AssignmentState.Name(assignment.state).removeprefix("ASSIGNMENT_STATE_")


if __name__ == "__main__":
    main()
