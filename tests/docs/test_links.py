"""Whatever the documentation points to is there: files, headings, subcommands and options."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pages import ROOT, Page, pages

_ANCHOR = re.compile(r'<a id="([^"]+)">')
EXTERNAL = ("https://", "http://", "mailto:")


def anchors(page: Page) -> list[str]:
    return [*page.anchors(), *(found for _, line in page.prose() for found in _ANCHOR.findall(line))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_link_leads_to_a_file_of_the_repository_and_to_a_heading_in_it(page: Page) -> None:
    broken = []
    for line, target in page.links():
        if target.startswith(EXTERNAL):
            continue
        file, _, anchor = target.partition("#")
        path = (page.path.parent / file).resolve() if file else page.path
        if not (path.is_relative_to(ROOT) and path.exists()):
            broken.append(f"{page.name}, line {line}: {target}: no such file")
        elif anchor and anchor not in anchors(Page(path)):
            broken.append(f"{page.name}, line {line}: {target}: no such heading")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_no_two_headings_of_a_page_share_an_anchor(page: Page) -> None:
    # A renderer numbers the second one: a link would silently lead to the first.
    assert [name for name, count in Counter(anchors(page)).items() if count > 1] == []
    assert not [name for name in page.anchors() if re.search(r"-\d+$", name) and name not in _anchors_as_written(page)]


def _anchors_as_written(page: Page) -> set[str]:
    lines = (line.lstrip("#").strip().lower() for _, line in page.prose() if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", line).replace(" ", "-") for line in lines}


def test_the_readme_leads_to_every_page() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        for _, target in Page(path).links():
            file = target.partition("#")[0]
            if file.endswith(".md") and not file.startswith(EXTERNAL):
                waiting.append((path.parent / file).resolve())
    assert {page.path for page in pages()} - reached == set()


def test_every_subcommand_named_in_the_text_exists() -> None:
    tool = Path(sys.executable).with_name("hostdevctl")
    told = subprocess.run([tool, "--help"], check=True, capture_output=True, text=True).stdout
    known = set(re.findall(r"^  ([a-z]+) {2,}\S", told.partition("Commands:")[2], re.MULTILINE))
    assert "attach" in known
    for page in pages():
        for line, text in page.prose():
            for named in re.findall(r"`hostdevctl (?:-o \w+ |--address \S+ )*([a-z]\w*)", text):
                assert named in known, f"{page.name}, line {line}: hostdevctl {named}"


def test_the_table_of_options_has_every_option_of_serve() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "hostdevd", "serve", "--help"], check=True, capture_output=True, text=True
    ).stdout
    options = set(re.findall(r"--[a-z][a-z-]+", told)) - {"--help"}
    table = {
        option
        for _, line in Page(ROOT / "docs" / "running.md").prose()
        if line.startswith("| `--")
        for option in re.findall(r"--[a-z][a-z-]+", line.split("|")[1])
    }
    assert table == options
