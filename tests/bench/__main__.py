"""hostdevd's speed beside what it is measured by: .venv/bin/python tests/bench [--json FILE] [--document FILE] [...].

Prints a table of ratios with the bar beside each (docs/benchmarks.md says what the rows are). Nothing else may run
meanwhile: two cores are few for what is measured. S10 is measured in the lab, by lab_attach.py.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("tests", "server", "clients/python")]  # run as a program

from bench import reads, watchers  # noqa: E402
from bench.rows import Row, as_document, machine, save_json, show  # noqa: E402

BEGIN, END = "<!-- result: begin -->\n", "<!-- result: end -->\n"


def main() -> None:
    """Measure, print a table, keep the result where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--document", type=Path, help="put the table into this document, between its marks")
    parser.add_argument("--devices", type=int, nargs="*", default=list(reads.SIZES))
    parser.add_argument("--watchers", type=int, default=1000, help="0: leave the watches out")
    given = parser.parse_args()
    about = machine()
    rows: list[Row] = []
    for row in chain(reads.rows(given.devices), _watches(given.watchers)):
        rows.append(row)
        show(row)
    if given.json:
        save_json(given.json, about, rows)
    if given.document:
        before, _, rest = given.document.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        text = f"{before}{BEGIN}{as_document(about, rows)}\n{END}{after}"
        given.document.write_text(text, encoding="utf-8")


def _watches(count: int) -> Iterator[Row]:
    if count:
        yield from watchers.rows(asyncio.run(watchers.measure(watchers.Size(watchers=count))))


if __name__ == "__main__":
    main()
