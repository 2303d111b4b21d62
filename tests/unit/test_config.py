"""Options of `hostdevd serve`: what the environment and the file mean where words are short."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostdevd.config import BUILTIN, ConfigError, load


@pytest.mark.parametrize(
    ("text", "simulate"),
    [("", None), ("0", None), ("false", None), ("1", BUILTIN), ("true", BUILTIN), ("/host.xml", "/host.xml")],
)
def test_a_variable_simulates_a_host_only_where_it_says_so(text: str, simulate: str | None) -> None:
    assert load({}, {"HOSTDEVD_SIMULATE": text}, None).simulate == simulate


@pytest.mark.parametrize(("text", "simulate"), [("true", BUILTIN), ("false", None), ('"/host.xml"', "/host.xml")])
def test_the_file_may_say_true(tmp_path: Path, text: str, simulate: str | None) -> None:
    file = tmp_path / "hostdevd.toml"
    file.write_text(f"simulate = {text}\n")
    assert load({}, {}, file).simulate == simulate


@pytest.mark.parametrize("variable", ["HOSTDEVD_LISTEN", "HOSTDEVD_ELIGIBILITY_POLICY"])
def test_an_empty_variable_opens_nothing_by_mistake(variable: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        load({}, {variable: ""}, None)


def test_an_argument_goes_before_a_variable_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "hostdevd.toml"
    file.write_text('connect = "file:///"\nreflection = false\n')
    environment = {"HOSTDEVD_CONNECT": "environment:///"}
    assert load({"connect": "argument:///"}, environment, file).connect == "argument:///"
    found = load({}, environment, file)
    assert (found.connect, found.reflection) == ("environment:///", False)


def test_a_word_that_is_none_is_refused_with_its_place() -> None:
    with pytest.raises(ConfigError, match="HOSTDEVD_REFLECTION: must be true or false"):
        load({}, {"HOSTDEVD_REFLECTION": "maybe"}, None)
