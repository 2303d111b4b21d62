"""Every error fits into the trailers of a call, as they are sent."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from google.rpc import error_details_pb2

from hostdevd.api.errors import DETAILS_TRAILER, to_status
from hostdevd.core.errors import FieldViolation, HostdevError
from hostdevd.core.model import Reason

HEADERS_BYTES = 7 * 1024


@pytest.mark.parametrize("name", ["\N{DIZZY FACE}" * 256, "%" * 256, "pci_0000_01_00_0"])
def test_a_long_error_fits_into_the_trailers(name: str) -> None:
    reasons = tuple(Reason("HOST_IN_USE", subject=name, message=f"{name} is busy ({number})") for number in range(200))
    error = HostdevError(
        "DEVICE_NOT_ELIGIBLE",
        f"the device {name} cannot be assigned: {name}",
        metadata=dict.fromkeys(("device", "vm"), name),
        reasons=reasons,
        fields=(FieldViolation(name, name),),
        resource=("device", name),
        retry_after_s=2.0,
    )
    status = to_status(error)
    details = base64.b64encode(status.SerializeToString())
    message = quote(status.message, safe="".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%"))
    assert len(DETAILS_TRAILER) + len(details) + len("grpc-message") + len(message) < HEADERS_BYTES
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    kinds = {detail.type_url.rpartition(".")[2] for detail in status.details}
    assert "RetryInfo" in kinds
    assert "Reason" in kinds or not name.isascii()
    left_out = int(info.metadata["details_left_out"])
    assert left_out + len(status.details) == 1 + 4 + len(reasons)
