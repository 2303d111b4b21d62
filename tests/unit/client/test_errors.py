from __future__ import annotations

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from hostdev import (
    AccessError,
    ConflictError,
    FieldViolation,
    HostdevApiError,
    HostdevClient,
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
    ServerError,
    UnavailableError,
)
from hostdev.v1 import error_pb2, service_pb2
from unit.client.fake_server import HELD, FakeHostdevd, Refused, error_info


def refused(server: FakeHostdevd, client: HostdevClient, refusal: Refused) -> HostdevApiError:
    server.refusals["GetHost"] = refusal
    with pytest.raises(HostdevApiError) as raised:
        client.get_host()
    return raised.value


def test_every_detail_of_an_error_is_read(server: FakeHostdevd, client: HostdevClient) -> None:
    error = refused(
        server,
        client,
        Refused(
            grpc.StatusCode.FAILED_PRECONDITION,
            "db holds it",
            error_info("HELD_BY_OTHER_VM", vm_name="db"),
            HELD,
            error_details_pb2.BadRequest(
                field_violations=[error_details_pb2.BadRequest.FieldViolation(field="vm", description="is wrong")]
            ),
            error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
            error_details_pb2.Help(),
        ),
    )
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert (error.reason, error.message, error.method) == ("HELD_BY_OTHER_VM", "db holds it", "GetHost")
    assert error.metadata == {"vm_name": "db"}
    assert error.reasons == (HELD,)
    assert error.field_violations == (FieldViolation("vm", "is wrong"),)
    assert error.retry_after_s == 1.5
    assert not error.unreachable
    assert str(error) == "HELD_BY_OTHER_VM: db holds it"


def test_preconditions_stand_in_for_missing_reasons(server: FakeHostdevd, client: HostdevClient) -> None:
    violation = error_details_pb2.PreconditionFailure.Violation
    failure = error_details_pb2.PreconditionFailure(
        violations=[
            violation(type="HOST_IN_USE", subject="pci_1", description="is mounted"),
            violation(type="INVENTED_LATER", description="something new"),
        ]
    )
    error = refused(server, client, Refused(grpc.StatusCode.FAILED_PRECONDITION, "no", failure))
    assert [(reason.code, reason.message) for reason in error.reasons] == [
        (error_pb2.ERROR_REASON_HOST_IN_USE, "is mounted"),
        (error_pb2.ERROR_REASON_UNSPECIFIED, "something new"),
    ]


def test_another_domains_error_info_is_no_reason(server: FakeHostdevd, client: HostdevClient) -> None:
    proxy = error_details_pb2.ErrorInfo(reason="QUOTA", domain="proxy.example")
    assert not refused(server, client, Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "no", proxy)).reason


def test_details_that_cannot_be_read_leave_code_and_message(server: FakeHostdevd, client: HostdevClient) -> None:
    broken = Refused(grpc.StatusCode.INTERNAL, "broken", error_info("UNEXPECTED"))
    broken.status.details[0].value = b"\xff\xff"
    error = refused(server, client, broken)
    assert (error.code, error.message, error.reason) == (grpc.StatusCode.INTERNAL, "broken", "")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError),
        (grpc.StatusCode.NOT_FOUND, NotFoundError),
        (grpc.StatusCode.FAILED_PRECONDITION, PreconditionError),
        (grpc.StatusCode.ABORTED, ConflictError),
        (grpc.StatusCode.PERMISSION_DENIED, AccessError),
        (grpc.StatusCode.INTERNAL, ServerError),
    ],
)
def test_codes_have_kinds(
    server: FakeHostdevd, client: HostdevClient, code: grpc.StatusCode, kind: type[HostdevApiError]
) -> None:
    assert type(refused(server, client, Refused(code, "no"))) is kind


def test_reads_are_tried_again_while_nobody_answers_and_changes_are_not(
    server: FakeHostdevd, client: HostdevClient
) -> None:
    server.refusals["Detach"] = Refused(grpc.StatusCode.UNAVAILABLE, "gone")
    assert isinstance(refused(server, client, server.refusals["Detach"]), UnavailableError)
    with pytest.raises(UnavailableError):
        client.detach(assignment="x")
    assert len(server.asked(service_pb2.GetHostRequest)) == 3
    assert len(server.asked(service_pb2.DetachRequest)) == 1


def test_nobody_at_the_address_is_unreachable() -> None:
    with HostdevClient("unix:/nonexistent/socket") as client, pytest.raises(HostdevApiError) as raised:
        client.get_host()
    assert raised.value.unreachable
    assert not raised.value.reason
