"""Options and arguments that attach and detach have in common."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from hostdev.cli import completing
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


DEVICE_HELP = "libvirt's name, uid, PCI address (04:00.0), or a network interface or disk of it (eth1, sda)."

DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help=DEVICE_HELP, autocompletion=completing.devices)]
VmArgument = Annotated[str, typer.Argument(metavar="VM", help="The VM's name or UUID.", autocompletion=completing.vms)]
DeviceOptions = Annotated[
    list[str] | None,
    typer.Option("--device", metavar="DEVICE", help="Only of this one.", autocompletion=completing.devices),
]
VmOptions = Annotated[
    list[str] | None,
    typer.Option("--vm", metavar="VM", help="Only this VM: name or UUID.", autocompletion=completing.vms),
]
PolicyOption = Annotated[GroupPolicy, typer.Option("--group-policy", help="What happens to the rest of the group.")]
ScopeOption = Annotated[Scope, typer.Option("--scope", help="The running VM, its configuration, or both.")]
WaitOption = Annotated[
    float,
    typer.Option("--wait", metavar="SECONDS", min=0, max=_LONGEST_WAIT_S, help="How long to wait; 0: not at all."),
]
