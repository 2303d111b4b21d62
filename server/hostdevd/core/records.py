"""Assignments as JSON and back, for the journal."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from hostdevd.core.assignments import (
    AssignedDevice,
    Assignment,
    AssignmentCondition,
    AssignmentState,
    Failure,
    FormerPlace,
    GroupPolicy,
    Scope,
)
from hostdevd.core.model import ConditionCode, HolderRole, Reason, Vm, VmState


def to_json(record: Assignment | Failure) -> str:
    """One record; times as seconds since the epoch."""
    return json.dumps(asdict(record), default=_plain)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.timestamp()
    raise TypeError(f"{type(value)} has no place in a record")


def assignment_from_json(text: str) -> Assignment:
    """An assignment as it was written; KeyError or ValueError for something else."""
    data: dict[str, Any] = json.loads(text)
    vm = data.pop("vm")
    failure = data.pop("failure")
    return Assignment(
        **{
            **data,
            "vm": Vm(**{**vm, "state": VmState(vm["state"])}),
            "devices": tuple(_device(device) for device in data["devices"]),
            "state": AssignmentState(data["state"]),
            "create_time": _time(data["create_time"]),
            "update_time": _time(data["update_time"]),
            "group_policy": GroupPolicy(data["group_policy"]),
            "scope": Scope(data["scope"]),
            "conditions": tuple(_condition(condition) for condition in data["conditions"]),
            "failure": _failure(failure) if failure else None,
        }
    )


def _device(data: dict[str, Any]) -> AssignedDevice:
    moving = data.get("moving")
    former = FormerPlace(**moving) if moving else None
    return AssignedDevice(**{**data, "role": HolderRole(data["role"]), "moving": former})


def failure_from_json(text: str) -> Failure:
    """A failure as it was written."""
    return _failure(json.loads(text))


def _failure(data: dict[str, Any]) -> Failure:
    return Failure(
        reason=data["reason"],
        message=data["message"],
        metadata=tuple((key, value) for key, value in data["metadata"]),
        reasons=tuple(Reason(**reason) for reason in data["reasons"]),
    )


def _condition(data: dict[str, Any]) -> AssignmentCondition:
    return AssignmentCondition(**{**data, "code": ConditionCode(data["code"]), "time": _time(data["time"])})


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
