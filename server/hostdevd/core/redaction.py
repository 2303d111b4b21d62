"""Refusals, plans, records and checks as a caller is told them: a machine that he may not see has no name in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hostdevd.core.assignments import Assignment
from hostdevd.core.errors import HostdevError
from hostdevd.core.failures import from_failure, to_failure
from hostdevd.core.model import Check, OfVm, Reason
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
    if sight.is_whole:
        return error
    message, metadata = error.message, error.metadata
    if _names_another(error) and not sight.knows_vm(metadata["vm_uuid"]):
        device = metadata.get("device", "")
        message, metadata = _unnamed(error), {"device": device} if device else {}
    return HostdevError(
        error.reason,
        message,
        metadata=metadata,
        reasons=reasons_for(sight, error.reasons),
        fields=error.fields,
        resource=error.resource,
        retry_after_s=error.retry_after_s,
    )


def kept(error: HostdevError) -> tuple[str, OfVm | None]:
    """An error's text for a record that others may read, without the machine that is in the way; and that machine."""
    if not _names_another(error):
        return error.message, None
    return _unnamed(error), OfVm(error.metadata["vm_name"], error.metadata["vm_uuid"])


def assignment_for(sight: Sight, assignment: Assignment) -> Assignment:
    """A record as it is told to a caller."""
    if sight.is_whole:
        return assignment
    conditions = tuple(
        one if one.of_vm is None or sight.vm(one.of_vm) else replace(one, of_vm=None) for one in assignment.conditions
    )
    failure = assignment.failure
    if failure is not None:
        failure = to_failure(error_for(sight, from_failure(failure)))
    return replace(assignment, conditions=conditions, failure=failure)


def check_for(sight: Sight, check: Check) -> Check:
    """A line of the host's report as it is told to a caller."""
    return replace(check, of_vms=tuple(filter(sight.vm, check.of_vms)))


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
    return sight.reasons(told)


def _names_another(error: HostdevError) -> bool:
    return error.reason in _OF_ANOTHER_VM and "vm_uuid" in error.metadata


def _unnamed(error: HostdevError) -> str:
    return _OF_ANOTHER_VM[error.reason].format(error.metadata.get("device") or "the device")
