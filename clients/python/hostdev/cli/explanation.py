"""Whether something can be assigned, in sentences: the reasons with their remedies, or who has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import RenderableType
from rich.text import Text

from hostdev.cli.output import cell
from hostdev.cli.words import lower, remedy, scopes, word
from hostdev.v1 import device_pb2, error_pb2, group_pb2, holder_pb2


def group_title(group: group_pb2.Group) -> str:
    """What people call the group."""
    return f"IOMMU group {group.iommu_group}" if group.HasField("iommu_group") else group.uid


def explain(
    subject: str, eligibility: device_pb2.Eligibility, holders: Iterable[holder_pb2.Holder]
) -> Iterator[RenderableType]:
    """All reasons at once; `subject` is the device or group that they are about."""
    if eligibility.available:
        yield cell(Text.assemble((subject, "bold"), (" can be assigned now", "green")))
        return
    if not eligibility.eligible:
        yield cell(Text.assemble((subject, "bold"), (" cannot be assigned:", "red")))
        for reason in eligibility.reasons:
            yield from _reason(reason, subject)
    held_by: dict[str, list[holder_pb2.Holder]] = {}
    for held in holders:
        held_by.setdefault(held.vm.uuid or held.vm.name, []).append(held)
    for held, *more in held_by.values():
        which = "it" if held.device == subject else ", ".join(one.device for one in (held, *more))
        where = f"{lower(held.vm, 'state')}, {scopes(held)}, {lower(held, 'via')}"
        yield cell(Text.assemble((subject, "bold"), (f" is taken: {held.vm.name} holds {which} ({where})", "yellow")))
        yield cell(Text(f"  → hostdevctl detach {held.vm.name} {held.device}", style="italic"))
    if eligibility.eligible and not held_by:
        # Neither whose holders one may not see nor who holds a parent is among the holders.
        text = (
            " is eligible and not available: a virtual machine that you may not see holds it, or one holds what goes"
            " with it (its group, physical function or parent)"
        )
        yield cell(Text.assemble((subject, "bold"), (text, "yellow")))


def _reason(reason: error_pb2.Reason, subject: str) -> Iterator[RenderableType]:
    about = (
        f" ({reason.subject})" if reason.subject not in {"", subject} and reason.subject not in reason.message else ""
    )
    yield cell(Text.assemble("  ", (word(reason, "code"), "red"), f"  {reason.message}{about}"))
    if reason.remedy:
        yield cell(Text(f"    → {remedy(reason.remedy)}", style="italic"))
