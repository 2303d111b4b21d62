"""The man page has every command and option, and roff takes it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import typer

from hostdev.cli.app import app
from unit.client.outcome import Run


def test_every_command_and_option_is_in_it(hostdevctl: Run) -> None:
    page = hostdevctl("manual").out
    assert page.splitlines()[0].startswith(".TH HOSTDEVCTL 1")
    command = typer.main.get_command(app)
    for name, one in command.commands.items():  # type: ignore[attr-defined]
        assert rf"\fB{name}" in page
        for option in one.params:
            if option.param_type_name == "option":
                for spelt in option.opts:
                    assert spelt.replace("-", "\\-") in page
    assert "whole-group|reserve-rest|single-only".replace("-", "\\-") in page
    assert "CHANGE_KIND_UPSERT" in page
    assert "earlier message" in page
    assert "message or list" not in page
    for line in page.splitlines():
        assert not line.startswith("'")
        assert not line.startswith(".") or line[1:3] in {"TH", "SH", "PP", "TP", "RS", "RE", "B "}


@pytest.mark.parametrize("formatter", [["groff", "-man", "-Tascii", "-ww"], ["man", "-l", "-"]])
def test_roff_shows_it_without_a_warning(hostdevctl: Run, formatter: list[str]) -> None:
    page = hostdevctl("manual").out
    if shutil.which(formatter[0]) is None:
        # What no formatter is there to see: every indentation that is begun is ended.
        assert page.count(".RS") == page.count(".RE")
        return
    shown = subprocess.run(formatter, input=page, capture_output=True, text=True, check=True)
    assert shown.stderr == ""
    assert "EXIT STATUS" in re.sub(r".\x08", "", shown.stdout)  # bold is typed twice
