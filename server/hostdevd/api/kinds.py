"""The four kinds of handlers that gRPC has, for interceptors that put another one around whichever there is."""

from __future__ import annotations

from typing import Any

import grpc

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def kind_of(handler: Any) -> tuple[Any, Any]:
    """How a handler of its kind is made, and what it does."""
    for kind in _KINDS:
        behaviour = getattr(handler, kind)
        if behaviour is not None:
            return getattr(grpc, f"{kind}_rpc_method_handler"), behaviour
    raise AssertionError
