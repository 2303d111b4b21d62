"""hostdevctl: the host's devices and who has them, at a shell."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_EXTRA = frozenset({"typer", "rich"})


def main(argv: Sequence[str] | None = None) -> None:
    """Run hostdevctl with `argv`, else with the program's own arguments; ends with SystemExit."""
    try:
        from hostdev.cli.app import run  # noqa: PLC0415 (the library works without the extra)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.exit("hostdevctl: the command line is not installed: install hostdevd-client[cli]")
    run(sys.argv[1:] if argv is None else argv)
