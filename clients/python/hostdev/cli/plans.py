"""A plan for people: its steps, what the host loses, what else happens, what stands in the way."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from hostdev.cli.output import cell, table
from hostdev.cli.words import affected_word, remedy, word
from hostdev.v1 import assignment_pb2, device_pb2

_DOES = {
    assignment_pb2.PLAN_STEP_KIND_HOST_DETACH: "take it from its host driver",
    assignment_pb2.PLAN_STEP_KIND_ATTACH_LIVE: "plug it into the running VM",
    assignment_pb2.PLAN_STEP_KIND_ATTACH_CONFIG: "write it into the VM's configuration",
    assignment_pb2.PLAN_STEP_KIND_VERIFY: "check that the VM has it",
    assignment_pb2.PLAN_STEP_KIND_DETACH_LIVE: "unplug it from the running VM",
    assignment_pb2.PLAN_STEP_KIND_DETACH_CONFIG: "remove it from the VM's configuration",
    assignment_pb2.PLAN_STEP_KIND_HOST_REATTACH: "give it back to the host",
}


def plan_views(plan: assignment_pb2.Plan) -> Iterator[RenderableType]:
    """All of a plan."""
    if plan.steps:
        yield Text("steps", style="bold")
        yield table(
            ("",) * 4,
            (
                (f"  {index}.", step.device, _DOES.get(step.kind, word(step, "kind")), step.detail)
                for index, step in enumerate(plan.steps, start=1)
            ),
        )
    yield from losses(plan)
    if plan.blockers:
        yield Text("in the way", style="bold red")
        for reason in plan.blockers:
            yield cell(Text.assemble("  ", (word(reason, "code"), "red"), f"  {reason.message}"))
            if reason.remedy:
                yield cell(Text(f"    → {remedy(reason.remedy)}", style="italic"))


def losses(plan: assignment_pb2.Plan) -> Iterator[RenderableType]:
    """What the host loses beside the device, and what else happens."""
    if plan.affected:
        yield Text("the host also loses", style="bold")
        yield table(("",) * 3, ((f"  {one.name}", one.type, affected_word(one)) for one in plan.affected))
    if plan.side_effects:
        yield Text("what else happens", style="bold")
        for effect in plan.side_effects:
            about = f"{effect.device}: " if effect.device and effect.device not in effect.message else ""
            yield cell(f"  {about}{effect.message}")


def endpoints(plan: assignment_pb2.Plan) -> list[str]:
    """Libvirt's names of the devices that are taken beside the one that was named."""
    return [one.name for one in plan.affected if one.role == device_pb2.AFFECTED_DEVICE_ROLE_ENDPOINT]
