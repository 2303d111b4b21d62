"""The table of options: kinds of values, layers, flags and the example file, over a table made here."""

from __future__ import annotations

import argparse
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hostdevd.config import OPTIONS
from hostdevd.options import kinds
from hostdevd.options.example import example_file
from hostdevd.options.flags import add_flags, given
from hostdevd.options.layers import Source, collect
from hostdevd.options.rows import option, rows_of

LIST = kinds.texts("NAME", "names", may_be_empty=True)


@dataclass(frozen=True, slots=True)
class Table:
    name: str = option("x", kinds.text(), "name", "Its name", flag="--name")
    mode: int = option(0o660, kinds.MODE, "socket.mode", "Its mode", flag="--mode")
    many: tuple[str, ...] = option((), LIST, "socket.many", "Its names", flag="--many")
    open: bool = option(False, kinds.SWITCH, "socket.open", "Be open", flag="--open")  # noqa: FBT003
    shut: bool = option(True, kinds.SWITCH, "socket.shut", "Be shut", flag="--no-shut")  # noqa: FBT003
    wait: float = option(1.5, kinds.seconds(0, 60), "wait", "How long", flag="--wait")
    path: Path | None = option(None, kinds.FILE, "deep.er.path", "Where", example="/a/b")
    most: int = option(5, kinds.integer(1, 10), "most", "How many", reloads=True)


ROWS = rows_of(Table)


def read(tmp_path: Path, text: str, arguments: dict[str, Any] | None = None, **environment: str) -> Any:
    file = tmp_path / "options.toml"
    file.write_text(text)
    return collect(ROWS, arguments or {}, {f"HOSTDEVD_{name}": value for name, value in environment.items()}, file)


@pytest.mark.parametrize(
    ("kind", "value", "text", "read"),
    [
        (kinds.text(), "a b", "a b", "a b"),
        (kinds.FILE, "/a", "/a", Path("/a")),
        (kinds.SWITCH, False, "No", False),
        (kinds.integer(-5, 5), -5, "-5", -5),
        (kinds.seconds(0, 5), 5, "5e0", 5.0),
        (LIST, ["a", "b"], "a, b,", ("a", "b")),
        (LIST, [], "", ()),
        (kinds.MODE, "0660", "0660", 0o660),
        (kinds.choice(["a", "b"]), "b", "b", "b"),
        (kinds.switch_or_file(""), True, "yes", ""),
        (kinds.switch_or_file(""), False, "0", None),
        (kinds.switch_or_file(""), "/a", "/a", "/a"),
    ],
)
def test_a_kind_reads_what_a_file_and_what_a_variable_has_and_shows_it_again(
    kind: kinds.Kind[Any], value: Any, text: str, read: Any
) -> None:
    assert kind.read(value) == kind.parse(text) == read
    if kind.plain(read) is not None:
        assert kind.read(kind.plain(read)) == read


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (kinds.text(), [1, "", "a\nb", "a\x1b[0m", ["a"], None]),
        (kinds.FILE, [1, "", "a\0", True]),
        (kinds.SWITCH, [1, "maybe", "true", None]),
        (kinds.integer(1, 10), [0, 11, True, 1.0, "1", None]),
        (kinds.seconds(0, 10), [-1, 10.5, True, float("nan"), float("inf"), "1"]),
        (kinds.texts("A", "addresses"), [[], "a", [1], ["a", ""], {"a": 1}]),
        (kinds.MODE, [432, 0o660, "660x", "0888", "06600", ""]),
        (kinds.choice(["a"]), ["b", 1, ["a"], {}]),
        (kinds.switch_or_file(""), [1, "", [True]]),
    ],
)
def test_a_kind_refuses_all_else_and_says_what_would_be_right(kind: kinds.Kind[Any], values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match="must "):
            kind.read(value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (kinds.SWITCH, ["", "maybe"]),
        (kinds.integer(1, 99), ["", "1_0", "1.0", "٣", "+1", "0x1", "9" * 5000, "--1", "-", "²"]),
        (kinds.seconds(0, 10), ["", "1s", "nan", "inf", "1e999"]),
        (kinds.texts("A", "addresses"), ["", ",", " , "]),
        (kinds.MODE, ["", "rw"]),
    ],
)
def test_a_word_that_fits_no_value_is_refused(kind: kinds.Kind[Any], words: list[str]) -> None:
    for word in words:
        with pytest.raises(ValueError, match="must "):
            kind.parse(word)


def test_each_value_has_its_source(tmp_path: Path) -> None:
    found = read(tmp_path, 'name = "f"\nmost = 2\nwait = 2\n', {"name": "a"}, NAME="e", WAIT="3")
    assert found.faults == []
    assert found.values == {"name": "a", "wait": 3.0, "most": 2}
    assert found.sources == {"name": Source.FLAG, "wait": Source.ENVIRONMENT, "most": Source.FILE}


def test_all_faults_are_told_each_with_its_place_and_with_what_would_be_right(tmp_path: Path) -> None:
    text = 'nmae = 1\nmost = 0\ndeep = 1\n[socket]\nmdoe = "1"\nmode = 432\n[socks]\n[wait]\n'
    found = read(tmp_path, text, {"name": ""}, SOCKET_OPEN="maybe")
    file = tmp_path / "options.toml"
    assert sorted(found.faults) == sorted(
        [
            f"{file}: unknown key nmae; did you mean name?",
            f"{file}: most: must be a whole number from 1 to 10",
            f"{file}: deep: must be a table, begun with [deep]",
            f"{file}: unknown key socket.mdoe; did you mean socket.mode?",
            f'{file}: socket.mode: must be octal digits as text, such as "0660"',
            f"{file}: unknown key socks; did you mean socket?",
            f"{file}: wait: must be seconds from 0 to 60",
            "HOSTDEVD_SOCKET_OPEN: must be true or false",
            "--name: must not be empty; leave it out instead",
        ]
    )


def test_a_fault_in_the_file_is_told_although_a_flag_hides_the_key(tmp_path: Path) -> None:
    assert len(read(tmp_path, "name = 1\n", {"name": "a"}).faults) == 1


@pytest.mark.parametrize(
    "content", [b"\xff", b"a = ", b"a = " + b"[" * 20_000, b"a = " + b"9" * 5000], ids=["utf8", "toml", "deep", "long"]
)
def test_a_file_that_is_no_toml_is_one_fault(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "options.toml"
    file.write_bytes(content)
    (fault,) = collect(ROWS, {}, {}, file).faults
    assert str(file) in fault
    assert "\n" not in fault


def test_a_file_that_everybody_can_write_is_one_fault(tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.touch()
    file.chmod(0o646)
    assert read(tmp_path, 'name = "f"\n').faults == [f"{file}: can be written by everybody: chmod o-w {file}"]


def test_a_key_with_control_characters_is_told_without_them(tmp_path: Path) -> None:
    (fault,) = read(tmp_path, '"a\\u001b[0m" = 1\n').faults
    assert fault.isprintable()


def test_flags_come_from_the_rows() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, ROWS)
    nothing = given(ROWS, parser.parse_args([]))
    assert set(nothing.values()) == {None}
    assert {"path", "most"}.isdisjoint(nothing)
    told = given(
        ROWS, parser.parse_args(["--name=a", "--mode=0600", "--many=a", "--many=b", "--open", "--no-shut", "--wait=2"])
    )
    found = collect(ROWS, told, {}, None)
    assert found.faults == []
    assert Table(**found.values) == Table("a", 0o600, ("a", "b"), open=True, shut=False, wait=2.0)
    assert "do not be shut" in parser.format_help()


@pytest.mark.parametrize("rows", [ROWS, OPTIONS], ids=["here", "hostdevd"])
def test_the_example_changes_nothing_and_without_its_comments_is_right(rows: Any, tmp_path: Path) -> None:
    text = example_file("All options.", rows)
    file = tmp_path / "options.toml"
    file.write_text(text)
    untouched = collect(rows, {}, {}, file)
    assert (untouched.values, untouched.faults) == ({}, [])
    file.write_text(
        "\n".join(line.removeprefix("#") if not line.startswith("# ") else line for line in text.split("\n"))
    )
    found = collect(rows, {}, {}, file)
    assert found.faults == []
    assert set(found.values) == {row.name for row in rows}
    for row in rows:
        assert row.default in {None, found.values[row.name]}
    assert max(map(len, text.splitlines())) <= 110
    assert tomllib.loads(text) == {} or all(isinstance(one, dict) for one in tomllib.loads(text).values())


def test_rows_are_told_apart_and_told_well() -> None:
    for unique in ("key", "variable", "name"):
        assert len({getattr(row, unique) for row in OPTIONS}) == len(OPTIONS)
    for row in OPTIONS:
        assert row.about[0].isupper(), row
        assert not row.about.endswith("."), row
        assert row.default is not None or row.example is not None, row
        assert "\n" not in row.about
