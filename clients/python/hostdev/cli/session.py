"""What all commands share: the connection and the form of the answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import typer

from hostdev.cli.naming import device_name, device_names
from hostdev.cli.output import Output, Printer
from hostdev.client import HostdevClient


@dataclass(frozen=True, slots=True)
class Session:
    """One run of hostdevctl."""

    client: HostdevClient
    output: Output

    @property
    def printer(self) -> Printer:
        """Writes in the chosen form."""
        return Printer(self.output)

    def device(self, given: str) -> str:
        """The device that a name of any kind means; see `naming`."""
        return device_name(self.client, given)

    def devices(self, given: Iterable[str] | None) -> list[str]:
        """The same for many."""
        return device_names(self.client, given)


def session_of(context: typer.Context) -> Session:
    """The session that the global options opened."""
    session = context.find_object(Session)
    if session is None:
        raise RuntimeError("the command runs without hostdevctl's global options")
    return session
