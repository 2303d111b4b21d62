"""The documentation as the tests see it: its pages, their code blocks, headings and links.

Page                    one Markdown file
Block                   a fenced block with its info string: `console`, `console lab`, `python follow.py`
Command                 a line after `$ ` of a console block, and the output that the page shows below it

A console block is run unless its info string has the word `lab`: that one needs a real host. A block of another
language whose info string names a file is written there first, so that the commands after it can use it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(?P<indent> *)(?P<mark>`{3,})(?P<info>[^`\n]*)$")
_EXIT_STATUS = re.compile(r"\s+# exit status (\d+)$")
_LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


@dataclass(frozen=True, slots=True)
class Command:
    """What a page says to type, and what it shows then; `shown` is empty when it shows nothing."""

    line: int
    text: str
    shown: tuple[str, ...]
    status: int

    @property
    def is_interrupted(self) -> bool:
        """The page shows it ended by Ctrl-C: it would go on for ever."""
        return self.shown[-1:] == ("^C",)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: where its content begins, its language, the words after it."""

    line: int
    language: str
    words: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def is_run(self) -> bool:
        """Its commands can be run on a simulated host."""
        return self.language == "console" and "lab" not in self.words

    @property
    def file(self) -> str:
        """The file that the page puts it into; empty when it names none."""
        return self.words[0] if self.words and self.language != "console" else ""

    def commands(self) -> Iterator[Command]:
        """The commands in order. What is above the first one is a mistake."""
        rest = list(enumerate(self.lines, self.line))
        while rest:
            line, text = rest.pop(0)
            if not text.startswith("$ "):
                raise ValueError(f"line {line}: {text!r} is the output of no command")
            text = text.removeprefix("$ ")
            while text.endswith("\\") and rest:
                text += "\n" + rest.pop(0)[1]
            shown = []
            while rest and not rest[0][1].startswith("$ "):
                shown.append(rest.pop(0)[1])
            status = _EXIT_STATUS.search(text)
            yield Command(line, text, tuple(shown), int(status[1]) if status else 0)


@dataclass(frozen=True, slots=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        """Its path in the repository."""
        return str(self.path.relative_to(ROOT))

    def blocks(self) -> tuple[Block, ...]:
        """Its fenced blocks."""
        return _split(self.path)[0]

    def prose(self) -> tuple[tuple[int, str], ...]:
        """Its lines outside of them, with their numbers."""
        return _split(self.path)[1]

    def anchors(self) -> list[str]:
        """The anchors of its headings as renderers make them: the second of a name gets `-1`."""
        found: list[str] = []
        for _, line in self.prose():
            heading = re.match(r"#{1,6} +(.*?) *#*$", line)
            if heading:
                text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
                slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
                before = sum(one == slug or re.fullmatch(re.escape(slug) + r"-\d+", one) is not None for one in found)
                found.append(f"{slug}-{before}" if before else slug)
        return found

    def links(self) -> Iterator[tuple[int, str]]:
        """The targets of its links, with their lines."""
        for number, line in self.prose():
            for link in _LINK.finditer(re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "code", line)):
                yield number, link[1]


@cache
def _split(path: Path) -> tuple[tuple[Block, ...], tuple[tuple[int, str], ...]]:
    blocks: list[Block] = []
    prose: list[tuple[int, str]] = []
    lines = list(enumerate(path.read_text().splitlines(), 1))
    while lines:
        number, line = lines.pop(0)
        fence = _FENCE.match(line)
        if fence is None:
            prose.append((number, line))
            continue
        content = []
        while lines and lines[0][1].strip() != fence["mark"]:
            content.append(lines.pop(0)[1].removeprefix(fence["indent"]))
        if not lines:
            raise ValueError(f"{path}: the block that begins in line {number} has no end")
        lines.pop(0)
        language, *words = fence["info"].split() or [""]
        blocks.append(Block(number + 1, language, tuple(words), tuple(content)))
    return tuple(blocks), tuple(prose)


def pages() -> list[Page]:
    """All pages that people read first or are led to: the README, docs, and what each client says of itself."""
    found = (*(ROOT / "docs").rglob("*.md"), *(ROOT / "clients").glob("*/README.md"))
    return [Page(ROOT / "README.md"), *(Page(path) for path in sorted(found))]
