"""The one exception of the lab, and how an entry script ends with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

USAGE_STATUS = 2


class LabError(Exception):
    """Something the user can act on: one line of what, one line of what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def end_with(main: Callable[[], int], program: str) -> NoReturn:
    """Run an entry point; a LabError becomes two lines on stderr and exit status 2."""
    try:
        status = main()
    except LabError as error:
        print(f"{program}: {error}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        status = USAGE_STATUS
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
