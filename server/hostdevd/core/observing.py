"""Who is told of work while it is done: counters and traces, where they are asked for; nobody else.

An observer decides nothing and must not raise. What it is given are names of ours, bounded in number, and
records: which of it becomes a label, and which only an attribute of a trace, is the observer's own choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from hostdevd.core.assignments import Assignment


@dataclass(slots=True)
class Result:
    """What came of something, told when it ends: the state that was reached, and the error's reason if any."""

    outcome: str = ""
    reason: str = ""


class CallObserver(Protocol):
    """Is told of calls into the hypervisor, from any thread, in the context of whoever asked for the call."""

    def called(self, function: str, seconds: float, *, failed: bool) -> None:
        """A call has ended just now."""


class Observer(CallObserver, Protocol):
    """Is told of operations and of their phases, on the event loop."""

    def operation(self, kind: str, assignment: Assignment, result: Result) -> AbstractContextManager[object]:
        """Lasts as long as an operation (`attach`, `detach`, ...); `result` is filled in before it ends."""

    def phase(self, phase: str, assignment: Assignment, device: str) -> AbstractContextManager[object]:
        """Lasts as long as a step of an operation, or a wait in it; an exception passes where it fails."""


class RpcObserver(Protocol):
    """Is told of the calls of clients, on the event loop."""

    def rpc(
        self, method: str, metadata: Mapping[str, str], result: Result, *, unary: bool
    ) -> AbstractContextManager[object]:
        """Lasts as long as a call; `method` is a served one's full name without the first slash, or `unknown`.

        `result` has the status code's name, and the reason of an error of ours, when it ends.
        """


class WatchObserver(Protocol):
    """Is told of what watchers are sent, on the event loop; `watch` is `devices` or `holders`."""

    def delivered(self, watch: str, delay_s: float) -> None:
        """A batch goes out, so long after the first event behind it was heard."""

    def reset(self, watch: str, reason: str) -> None:
        """A watcher has to begin anew."""


class Nobody:
    """Nobody is told."""

    def called(self, function: str, seconds: float, *, failed: bool) -> None:
        """Not told."""

    def operation(self, kind: str, assignment: Assignment, result: Result) -> AbstractContextManager[object]:  # noqa: ARG002
        """Not told."""
        return nullcontext()

    def phase(self, phase: str, assignment: Assignment, device: str) -> AbstractContextManager[object]:  # noqa: ARG002
        """Not told."""
        return nullcontext()

    def delivered(self, watch: str, delay_s: float) -> None:
        """Not told."""

    def reset(self, watch: str, reason: str) -> None:
        """Not told."""


NOBODY = Nobody()


class Several:
    """All of several observers, each after the one before."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def called(self, function: str, seconds: float, *, failed: bool) -> None:
        """Tell all of a call."""
        for observer in self._observers:
            observer.called(function, seconds, failed=failed)

    @contextmanager
    def operation(self, kind: str, assignment: Assignment, result: Result) -> Iterator[None]:
        """Tell all of an operation."""
        with ExitStack() as stack:
            for observer in self._observers:
                stack.enter_context(observer.operation(kind, assignment, result))
            yield

    @contextmanager
    def phase(self, phase: str, assignment: Assignment, device: str) -> Iterator[None]:
        """Tell all of a phase."""
        with ExitStack() as stack:
            for observer in self._observers:
                stack.enter_context(observer.phase(phase, assignment, device))
            yield
