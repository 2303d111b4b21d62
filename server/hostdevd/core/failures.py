"""The refusals and failures of attach and detach, each built in one place."""

from __future__ import annotations

from hostdevd.core.assignments import Assignment, AssignmentCondition, Failure
from hostdevd.core.errors import FieldViolation, HostdevError, disconnected
from hostdevd.core.model import Vm
from hostdevd.core.ports import HypervisorError, HypervisorGone
from hostdevd.core.steps import StepFailedError


def no_assignment(name: str) -> HostdevError:
    """There is no record of this name."""
    return HostdevError(
        "ASSIGNMENT_NOT_FOUND",
        f"there is no assignment {name}",
        metadata={"assignment": name},
        resource=("assignment", name),
    )


def in_use(assignment: Assignment) -> HostdevError:
    """The record holds something, or may come to."""
    return HostdevError(
        "ASSIGNMENT_IN_USE",
        f"the assignment {assignment.name} is {assignment.state.lower()}; detach it first",
        metadata={"assignment": assignment.name, "state": str(assignment.state)},
    )


def in_progress(assignment: str, vm: Vm, device: str) -> HostdevError:
    """Another operation works on the device or its group."""
    return HostdevError(
        "OPERATION_IN_PROGRESS",
        f"{device} is being worked on for the virtual machine {vm.name}",
        metadata={"assignment": assignment, "vm_name": vm.name, "vm_uuid": vm.uuid, "device": device},
        retry_after_s=1.0,
    )


def device_in_work(call: str, device: str) -> HostdevError:
    """A call that is none of a VM's works on the device, or on what it stands on."""
    return HostdevError(
        "OPERATION_IN_PROGRESS",
        f"{device} is being worked on by {call}",
        metadata={"device": device, "operation": call},
        retry_after_s=1.0,
    )


def libvirt_refused(what: str, device: str, error: HypervisorError) -> HostdevError:
    """Libvirt would not make or remove a device: its text, and whether it is a right that the service lacks."""
    if isinstance(error, HypervisorGone):
        return disconnected(error.text)
    metadata = {"device": device, "libvirt_code": str(error.code), "why": error.text}
    text = f"{what} failed: {error.text} (libvirt {error.code})"
    if error.code in _NOT_AUTHORIZED:
        text += "; let hostdevd's polkit rules allow node-device.{write,start,stop,delete}"
        return HostdevError("BROKER_NOT_AUTHORIZED", text, metadata=metadata)
    return HostdevError("HYPERVISOR_UNSUPPORTED", text, metadata=metadata)


_NOT_AUTHORIZED = frozenset({29, 45, 79, 88, 94})
"""`VIR_ERR_OPERATION_DENIED`, `AUTH_FAILED`, `AUTH_CANCELLED`, `ACCESS_DENIED`, `AUTH_UNAVAILABLE`."""


def shutting_down() -> HostdevError:
    """No new work is begun."""
    return HostdevError("SHUTTING_DOWN", "the service is shutting down", retry_after_s=5.0)


def request_id_reused(request_id: str) -> HostdevError:
    """The id belongs to another request."""
    return HostdevError(
        "REQUEST_ID_REUSED",
        "the request_id was used before, by another caller or with other arguments",
        metadata={"request_id": request_id},
        fields=(FieldViolation("request_id", "use a new one for another request"),),
    )


def attach_failed(
    assignment: Assignment, failed: StepFailedError, conditions: tuple[AssignmentCondition, ...]
) -> HostdevError:
    """A step failed; `conditions` tell what could not be rolled back."""
    metadata = {
        "step": str(failed.kind),
        "device": failed.device,
        "why": failed.why,
        "assignment": assignment.name,
        "vm_name": assignment.vm.name,
        "vm_uuid": assignment.vm.uuid,
        "rolled_back": "false" if conditions else "true",
    }
    if failed.code is not None:
        metadata["libvirt_code"] = str(failed.code)
    text = f"{failed.kind} of {failed.device} failed: {failed.why}; "
    text += "; ".join(condition.message for condition in conditions) if conditions else "everything was rolled back"
    return HostdevError("ATTACH_FAILED", text, metadata=metadata)


def detach_rejected(assignment: Assignment, device: str, text: str) -> HostdevError:
    """The guest, or libvirt for it, keeps a device."""
    return HostdevError(
        "DETACH_REJECTED_BY_GUEST",
        text,
        metadata={
            "device": device,
            "vm_name": assignment.vm.name,
            "vm_uuid": assignment.vm.uuid,
            "assignment": assignment.name,
        },
    )


def to_failure(error: HostdevError) -> Failure:
    """The error as it is kept."""
    return Failure(error.reason, error.message, tuple(sorted(error.metadata.items())), error.reasons)


def from_failure(failure: Failure) -> HostdevError:
    """The error as its caller got it."""
    return HostdevError(failure.reason, failure.message, metadata=dict(failure.metadata), reasons=failure.reasons)
