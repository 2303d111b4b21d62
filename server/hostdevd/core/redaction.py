"""Refusals and plans as a caller is told them: a machine that he may not see has no name in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hostdevd.core.errors import HostdevError
from hostdevd.core.model import Reason
from hostdevd.core.plan import Plan
from hostdevd.core.sight import Sight

_OF_ANOTHER_VM = {
    "HELD_BY_OTHER_VM": "{} or a member of its group is held by another virtual machine",
    "OPERATION_IN_PROGRESS": "{} is being worked on for another virtual machine",
}
"""What names a machine that its caller did not; the device is one that he sees."""
_REMEDY = "ask who may see that virtual machine"


def error_for(sight: Sight, error: HostdevError) -> HostdevError:
    """An error as it is told to a caller."""
    text = _OF_ANOTHER_VM.get(error.reason)
    if sight.is_whole or text is None or "vm_uuid" not in error.metadata:
        return error
    reasons = reasons_for(sight, error.reasons)
    if sight.knows_vm(error.metadata["vm_uuid"]):
        message, metadata = error.message, error.metadata
    else:
        device = error.metadata.get("device", "")
        message, metadata = text.format(device or "the device"), {"device": device} if device else {}
    return HostdevError(error.reason, message, metadata=metadata, reasons=reasons, retry_after_s=error.retry_after_s)


def plan_for(sight: Sight, plan: Plan) -> Plan:
    """A plan as it is told to a caller."""
    return plan if sight.is_whole else replace(plan, blockers=reasons_for(sight, plan.blockers))


def reasons_for(sight: Sight, reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """Reasons as they are told to a caller, what is the same then once."""
    told = (
        one
        if one.code != "HELD_BY_OTHER_VM" or sight.knows_vm(one.subject)
        else Reason(one.code, "", _OF_ANOTHER_VM[one.code].format("the device"), _REMEDY)
        for one in reasons
    )
    return tuple(dict.fromkeys(told))
