"""An attach for the time of a block: what has to be taken back when the block ends."""

from __future__ import annotations

from dataclasses import dataclass

from hostdev.errors import HostdevError, UnfinishedError
from hostdev.v1 import assignment_pb2, service_pb2


@dataclass(frozen=True, slots=True)
class Holding:
    """What an attach has added to what the VM held before."""

    assignment: assignment_pb2.Assignment
    scope: assignment_pb2.Scope.ValueType

    @classmethod
    def of(cls, answer: service_pb2.AttachResponse) -> Holding:
        """What the answer says.

        Raises:
            UnfinishedError: the attach goes on.
        """
        assignment = answer.assignment
        if assignment.state != assignment_pb2.ASSIGNMENT_STATE_ATTACHED:
            raise UnfinishedError(assignment)
        kinds = {step.kind for step in answer.plan.steps}
        live = assignment_pb2.PLAN_STEP_KIND_ATTACH_LIVE in kinds
        config = assignment_pb2.PLAN_STEP_KIND_ATTACH_CONFIG in kinds
        # The attach may have extended what the VM held in the other scope, which then is not ours to take away.
        if live and assignment.config and not config:
            return cls(assignment, assignment_pb2.SCOPE_LIVE)
        if config and assignment.live and not live:
            return cls(assignment, assignment_pb2.SCOPE_CONFIG)
        return cls(assignment, assignment_pb2.SCOPE_AUTO)

    def check_detached(self, answer: service_pb2.DetachResponse) -> None:
        """Whether it has been taken back.

        Raises:
            UnfinishedError: the guest has not let go yet.
        """
        if answer.assignment.state == assignment_pb2.ASSIGNMENT_STATE_DETACHING:
            raise UnfinishedError(answer.assignment)

    def note_on(self, failure: BaseException, error: HostdevError) -> None:
        """The block failed, and taking back too: the first failure is raised and tells of the second."""
        failure.add_note(f"assignment {self.assignment.name} was not taken back: {error}")
