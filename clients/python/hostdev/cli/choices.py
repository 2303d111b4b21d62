"""Options and arguments that attach and detach have in common."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from hostdev.v1 import assignment_pb2

_LONGEST_WAIT_S = 86_400.0


class GroupPolicy(StrEnum):
    """What happens to the other endpoints of the group."""

    WHOLE_GROUP = "whole-group"
    RESERVE_REST = "reserve-rest"
    SINGLE_ONLY = "single-only"

    @property
    def wire(self) -> assignment_pb2.GroupPolicy.ValueType:
        """The API's value."""
        return assignment_pb2.GroupPolicy.Value(f"GROUP_POLICY_{self.name}")


class Scope(StrEnum):
    """Which of the VM's definitions are changed."""

    AUTO = "auto"
    LIVE = "live"
    CONFIG = "config"
    LIVE_AND_CONFIG = "live-and-config"

    @property
    def wire(self) -> assignment_pb2.Scope.ValueType:
        """The API's value."""
        return assignment_pb2.Scope.Value(f"SCOPE_{self.name}")


DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="libvirt's name of the device, or its uid.")]
VmArgument = Annotated[str, typer.Argument(metavar="VM", help="The VM's name or UUID.")]
PolicyOption = Annotated[GroupPolicy, typer.Option("--group-policy", help="What happens to the rest of the group.")]
ScopeOption = Annotated[Scope, typer.Option("--scope", help="The running VM, its configuration, or both.")]
WaitOption = Annotated[
    float,
    typer.Option("--wait", metavar="SECONDS", min=0, max=_LONGEST_WAIT_S, help="How long to wait; 0: not at all."),
]
