"""THREAT_MODEL.md says nothing that no test shows, as far as the names of tests can tell."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "THREAT_MODEL.md").read_text("utf-8")
_NAMED = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
_CANNOT = re.compile(r"^(?:.* )?cannot\n(?P<statements>(?:- .*\n|  .*\n)+)", re.MULTILINE)
NEEDS_NO_TEST = ("call the service: it has no way to it",)


def named_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


@pytest.mark.parametrize("file", sorted({file for file, _ in _NAMED.findall(TEXT)}))
def test_every_test_that_it_names_exists(file: str) -> None:
    named = {name for found, name in _NAMED.findall(TEXT) if found == file}
    assert (ROOT / file).is_file()
    assert named - named_in(ROOT / file) == set()


def test_whatever_somebody_cannot_do_is_shown_by_a_test() -> None:
    statements = [
        " ".join(statement.split())
        for found in _CANNOT.finditer(TEXT)
        for statement in re.split(r"^- ", found["statements"], flags=re.MULTILINE)
        if statement
    ]
    assert len(statements) > 15, "the page is not read as it is written"
    bare = [statement for statement in statements if not _NAMED.search(statement)]
    assert bare == list(NEEDS_NO_TEST)


def test_whatever_a_bad_day_leaves_is_shown_by_a_test() -> None:
    rows = TEXT.partition("## Bad days")[2].split("|---|---|---|\n")[1].splitlines()
    days = [row for row in rows if row.startswith("| ")]
    assert days
    assert [row for row in days if not _NAMED.search(row)] == []
