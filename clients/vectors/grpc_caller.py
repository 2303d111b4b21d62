"""Calls by name with JSON in and out, through the Python client's stubs and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from hostdev import HostdevApiError, HostdevClient
from hostdev.v1 import service_pb2

TIMEOUT_S = 20.0


def caller(client: HostdevClient) -> Callable[[str, Mapping[str, Any], int], dict[str, Any]]:
    """A `suite.Caller` for this client."""

    def call(name: str, request: Mapping[str, Any], messages: int) -> dict[str, Any]:
        service, _, method = name.partition(".")
        stub = client.admin if service == "HostDeviceAdminService" else client.service
        try:
            answer = getattr(stub, method)(request_of(method, request), timeout=TIMEOUT_S)
            if not messages:
                return {"response": MessageToDict(answer)}
            received = [MessageToDict(next(answer)) for _ in range(messages)]
            answer.cancel()
        except grpc.RpcError as error:
            return {"error": error_json(HostdevApiError.from_rpc_error(error))}
        return {"messages": received}

    return call


def request_of(method: str, request: Mapping[str, Any]) -> Message:
    """The request's message."""
    message: Message = getattr(service_pb2, f"{method}Request")()
    return ParseDict(dict(request), message)


def error_json(error: HostdevApiError) -> dict[str, Any]:
    """An error in the form of the vectors."""
    reasons = [MessageToDict(reason) for reason in error.reasons]
    for reason in reasons:
        reason["code"] = reason["code"].removeprefix("ERROR_REASON_")
    shown = {
        "code": error.code.name,
        "reason": error.reason,
        "metadata": dict(sorted(error.metadata.items())),
        "reasons": reasons,
    }
    return {key: value for key, value in shown.items() if value}
