"""Every command in the documentation is run, in the order of its page, and prints what the page shows.

Each page has a directory, a shell and a simulated host of its own. `/tmp/hostdevd` in a page is a place in that
directory, so pages run beside each other and beside a service of the reader's. Where a page starts `hostdevd serve`
itself, the one that it was given ends.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from matching import fits
from pages import ROOT, Block, Command, Page, pages
from terminal import Terminal

TIMEOUT_S = 60.0
PLACE = "/tmp/hostdevd"  # noqa: S108  (the pages' word for it)
SOCKET = f"{PLACE}.sock"
STATE = f"{PLACE}-state"

RUN = [page for page in pages() if any(block.is_run for block in page.blocks())]


def test_the_readme_and_the_how_tos_have_commands_to_run() -> None:
    names = {page.name for page in RUN}
    assert "README.md" in names
    assert names >= {str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "how-to").glob("*.md")}


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    """Built from its module the first time, kept in the cache from then on."""
    built = subprocess.run([ROOT / "deploy" / "grpcurl"], check=True, stdout=subprocess.PIPE, text=True)
    return Path(built.stdout.strip())


@pytest.mark.timeout(600)  # a dozen programs start one after the other; on a loaded machine that takes its time
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_a_page_prints_what_it_shows(page: Page, tmp_path: Path, grpcurl: Path) -> None:
    with (
        Reader(page, tmp_path, grpcurl) as reader,
        Terminal(tmp_path, reader.environment, TIMEOUT_S) as terminal,
    ):
        for block in page.blocks():
            if block.file:
                (tmp_path / block.file).write_text(reader.here("\n".join(block.lines)) + "\n")
            for command in block.commands() if block.is_run else ():
                reader.follow(terminal, command)


class Reader:
    """Somebody who does what a page says."""

    def __init__(self, page: Page, directory: Path, grpcurl: Path) -> None:
        self._page = page
        self._directory = directory
        tools = (Path(sys.executable).parent, grpcurl.parent)
        self.environment = {
            "HOME": str(directory),
            "HOSTDEV_ADDRESS": f"unix:{self.here(SOCKET)}",
            "LANG": "C.UTF-8",
            "PATH": os.pathsep.join((*map(str, tools), os.environ["PATH"])),
            "PYTHONDONTWRITEBYTECODE": "1",
            # The tests' own coverage, cache and proxies stay out; the working tree of a test run stays in.
            **{name: os.environ[name] for name in ("PYTHONPATH", "XDG_CACHE_HOME") if name in os.environ},
        }
        # setup finds uv in the home's cache, or in PATH: this home is empty.
        uv = shutil.which("uv", path=os.pathsep.join((os.environ["PATH"], str(_cache() / "uv" / "bin"))))
        if uv is not None:
            self.environment["PATH"] += os.pathsep + str(Path(uv).parent)

    def here(self, text: str) -> str:
        """The page's words with the places of this run."""
        text = text.replace(PLACE, f"{self._directory}/hostdevd")
        return re.sub(r"(?m)^(deploy|tests)/", rf"{ROOT}/\1/", text)

    def there(self, text: str) -> str:
        """What was printed with the page's places."""
        return text.replace(f"{self._directory}/hostdevd", PLACE).replace(f"{ROOT}/", "")

    def __enter__(self) -> Self:
        """Start the simulated host that the page is about."""
        arguments = ["--simulate", "--listen", f"unix:{self.here(SOCKET)}", "--state-dir", self.here(STATE)]
        self._service = subprocess.Popen(
            [sys.executable, "-m", "hostdevd", "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._service.stdout is not None
        assert self._service.stdout.readline().startswith("listening on ")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_service()

    def _end_service(self) -> None:
        self._service.terminate()
        self._service.wait(TIMEOUT_S)
        if self._service.stdout is not None:
            self._service.stdout.close()

    def follow(self, terminal: Terminal, command: Command) -> None:
        """Do what a command says and compare."""
        text, where = self.here(command.text), f"{self._page.name}, line {command.line}: $ {command.text}"
        shown = command.shown[:-1] if command.is_interrupted else command.shown
        if re.match(r"hostdevd serve\b", text):
            self._end_service()

        def enough(printed: str) -> bool:
            return fits(shown, self.there(printed))

        if command.is_interrupted:
            printed = terminal.run_until(text, lambda printed: fits((*shown, "..."), self.there(printed)))
            assert fits((*shown, "..."), self.there(printed)), _difference(where, command, printed)
            return
        status, printed = terminal.run(text)
        if shown and not enough(printed) and text.endswith("&"):
            before = printed
            printed += terminal.more(lambda later: enough(before + later))
        assert status == command.status, f"{where}\nexit status {status}; it printed:\n{printed}"
        assert not shown or enough(printed), _difference(where, command, printed)


def _difference(where: str, command: Command, printed: str) -> str:
    return f"{where}\nThe page shows:\n{chr(10).join(command.shown)}\nIt printed:\n{printed}"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache") / "hostdevd"


BLOCKS = [
    pytest.param(page, block, id=f"{page.name}-{block.line}")
    for page in pages()
    for block in page.blocks()
    if block.language in {"console", "python", "toml"}
]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_a_block_is_well_formed_also_where_it_is_not_run(page: Page, block: Block) -> None:
    text = "\n".join(block.lines)
    if block.language == "console":
        script = "\n".join(command.text for command in block.commands())
        assert script
        checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{page.name}: {checked.stderr}"
    elif block.language == "python":
        compile(text, f"{page.name}:{block.line}", "exec")
    else:
        tomllib.loads(text)
