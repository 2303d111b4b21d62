"""What counts as the output that a page shows."""

from __future__ import annotations

import pytest
from matching import fits


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (["a", "b"], "a\nb\n"),
        (["a  wide   table"], "a wide  table\n\n"),
        (["a", "..."], "a\nmore\nstill more\n"),
        (["...", "b"], "a\nb\n"),
        (["...", "b", "...", "d", "..."], "b\nc\nd\n"),
        (["alpha ... ATTACHED ..."], "alpha ATTACHED live"),
        (["made at 2026-01-01 10:00:00"], "made at 2026-12-31T23:59:59.5Z"),
        (["is 5e20a6c5-9652-4123-b5a7-4d3f8cab22d6"], "is 0e20a6c5-9652-4123-b5a7-4d3f8cab22d7"),
        (["..."], ""),
    ],
)
def test_what_the_page_shows_fits(shown: list[str], printed: str) -> None:
    assert fits(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        (["a"], "a\nb\n"),
        (["a", "b"], "a\n"),
        (["a", "..."], "b\na\n"),
        (["...", "a"], "a\nb\n"),
        (["...", "b", "...", "a", "..."], "a\nb\n"),
        (["a", "...", "a"], "a\n"),
        (["alpha ... FAILED ..."], "alpha ATTACHED live"),
        ([], "something\n"),
    ],
)
def test_something_else_does_not_fit(shown: list[str], printed: str) -> None:
    assert not fits(shown, printed)
