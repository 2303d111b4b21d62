"""Assignments, holders and changes of holders as JSON and back, for the journal."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
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
from hostdevd.core.history import Batch, Change, ChangeSource
from hostdevd.core.model import ConditionCode, Holder, HolderRole, HolderVia, OfVm, Reason, Vm, VmState

_HOLDER = tuple(field.name for field in fields(Holder) if field.name not in {"vm", "since"})
_VM = tuple(field.name for field in fields(Vm))


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
    failure = data.pop("failure")
    return Assignment(
        **{
            **data,
            "vm": _vm(data["vm"]),
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
    traits = _traits(data.get("traits", ()))
    return AssignedDevice(**{**data, "role": HolderRole(data["role"]), "moving": former, "traits": traits})


def _traits(data: Iterable[Iterable[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((key, text) for key, text in data)


def failure_from_json(text: str) -> Failure:
    """A failure as it was written."""
    return _failure(json.loads(text))


def _failure(data: dict[str, Any]) -> Failure:
    return Failure(
        reason=data["reason"],
        message=data["message"],
        metadata=tuple((key, value) for key, value in data["metadata"]),
        reasons=tuple(Reason(**{**reason, "of_vm": _of_vm(reason)}) for reason in data["reasons"]),
    )


def _condition(data: dict[str, Any]) -> AssignmentCondition:
    code, time = ConditionCode(data["code"]), _time(data["time"])
    return AssignmentCondition(**{**data, "code": code, "time": time, "of_vm": _of_vm(data)})


def _of_vm(data: dict[str, Any]) -> OfVm | None:
    of_vm = data.get("of_vm")  # what was written before there was such a thing has none
    return OfVm(**of_vm) if of_vm else None


def holder_to_json(holder: Holder) -> str:
    """One holder; times as seconds since the epoch."""
    return json.dumps(_plain_holder(holder))


def holder_from_json(text: str) -> Holder:
    """A holder as it was written; KeyError, TypeError or ValueError for something else."""
    return _holder(json.loads(text))


def batch_to_json(batch: Batch[Holder]) -> str:
    """The changes of one revision, which is not in it."""
    # One by one: a single call would keep the other threads from running for as long as all of it takes.
    return f"[{','.join(map(_change_to_json, batch.changes))}]"


def batch_from_json(revision: int, text: str) -> Batch[Holder]:
    """The changes of a revision as they were written; KeyError, TypeError or ValueError for something else."""
    return Batch(
        revision,
        tuple(
            Change(
                key=change["key"],
                before=_holder(change["before"]) if change["before"] is not None else None,
                after=_holder(change["after"]) if change["after"] is not None else None,
                source=ChangeSource(change["source"]),
                time=_time(change["time"]),
            )
            for change in json.loads(text)
        ),
    )


def _change_to_json(change: Change[Holder]) -> str:
    return json.dumps(
        {
            "key": change.key,
            "before": _plain_holder(change.before) if change.before is not None else None,
            "after": _plain_holder(change.after) if change.after is not None else None,
            "source": change.source,
            "time": change.time.timestamp(),
        }
    )


def _plain_holder(holder: Holder) -> dict[str, object]:
    """As `asdict` would, an order of magnitude faster: a burst has thousands of them."""
    plain: dict[str, object] = {name: getattr(holder, name) for name in _HOLDER}
    plain["vm"] = {name: getattr(holder.vm, name) for name in _VM}
    plain["since"] = holder.since.timestamp()
    return plain


def _holder(data: dict[str, Any]) -> Holder:
    return Holder(
        **{
            **data,
            "vm": _vm(data["vm"]),
            "via": HolderVia(data["via"]),
            "role": HolderRole(data["role"]),
            "since": _time(data["since"]),
            "traits": _traits(data.get("traits", ())),
        }
    )


def _vm(data: dict[str, Any]) -> Vm:
    return Vm(**{**data, "state": VmState(data["state"])})


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
