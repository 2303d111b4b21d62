"""SIGHUP inside: the parts in turn, what becomes of changed options, and what a fault of one part leaves alone."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from hostdevd import config
from hostdevd.commands import reading
from hostdevd.config import OPTIONS, Config, ConfigError
from hostdevd.reconfigure import Reconfigure
from hostdevd.reload import Reload, Reloadable

Logs = list[structlog.typing.EventDict]


class Part:
    """A part whose `again` does what it is told, and counts."""

    def __init__(self, name: str, outcome: Mapping[str, object] | Exception | None) -> None:
        self.name = name
        self.outcome = outcome
        self.times = 0
        self.done = asyncio.Event()

    async def again(self) -> Mapping[str, object] | None:
        self.times += 1
        self.done.set()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


async def turn(*parts: Part, asks: int = 1) -> Logs:
    """One turn of all parts; what is logged, by level, text and part."""
    reload = Reload()
    with structlog.testing.capture_logs() as logs:
        for _ in range(asks):
            reload.ask()
        task = asyncio.create_task(reload.follow([Reloadable(part.name, part.again, KeyError) for part in parts]))
        async with asyncio.timeout(10):
            await parts[-1].done.wait()
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return logs


async def test_every_part_has_its_turn_and_its_line_whatever_the_others_do() -> None:
    parts = (
        Part("configuration", {"changed": []}),
        Part("roles", KeyError("typo")),
        Part("policy", RuntimeError("a fault")),
        Part("certificates", None),
        Part("last", {}),
    )
    logs = await turn(*parts)
    assert [(line["log_level"], line["what"], line["event"]) for line in logs] == [
        ("info", "configuration", "read again"),
        ("error", "roles", "refused, the old one stays"),
        ("error", "policy", "could not be applied"),
        ("info", "certificates", "not configured, so not read again"),
        ("info", "last", "read again"),
    ]
    assert "typo" in logs[1]["reason"]
    assert logs[2]["exc_info"]


async def test_requests_before_it_follows_are_one_turn() -> None:
    part = Part("policy", {})
    await turn(part, asks=3)
    assert part.times == 1


# --- the configuration -----------------------------------------------------------------------------------

ALL = {row.name: row for row in OPTIONS if row.reloads}


def applying(old: Config, new: list[Config | Exception]) -> tuple[Reconfigure, list[tuple[str, Any]]]:
    applied: list[tuple[str, Any]] = []

    def read() -> Config:
        found = new.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    apply = {name: lambda value, name=name: applied.append((name, value)) for name in ALL}
    return Reconfigure(old, read, apply), applied


async def test_what_can_be_is_applied_and_the_rest_named_until_the_restart() -> None:
    old = Config()
    new = Config(connect="test:///default", listen=("127.0.0.1:1",), log_level="debug", policy=Path("/p"))
    again, applied = applying(old, [new, new])
    with structlog.testing.capture_logs() as logs:
        assert await again.again() == {"changed": ["eligibility.policy", "log.level"]}
        assert applied == [("policy", Path("/p")), ("log_level", "debug")]
        assert await again.again() == {"changed": []}
    assert len(applied) == 2
    assert [(line["log_level"], line["options"]) for line in logs] == [("warning", ["connect", "listen"])] * 2


async def test_nothing_changed_is_nothing_told() -> None:
    again, applied = applying(Config(), [Config()])
    with structlog.testing.capture_logs() as logs:
        assert await again.again() == {"changed": []}
    assert (applied, logs) == ([], [])


async def test_a_broken_file_changes_nothing() -> None:
    again, applied = applying(Config(), [ConfigError("a: b", "c: d"), dataclasses.replace(Config(), log_level="error")])
    with pytest.raises(ConfigError, match="a: b\nc: d"):
        await again.again()
    assert applied == []
    await again.again()
    assert applied == [("log_level", "error")]


@pytest.fixture
def default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(config.CONFIG_VARIABLE, raising=False)
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "hostdevd.toml")
    return tmp_path / "hostdevd.toml"


SERVE_ALONE = argparse.Namespace(config=None, **{row.name: None for row in OPTIONS})
"""`hostdevd serve`, without a flag."""


def test_a_default_file_that_was_read_and_is_away_changes_nothing(default_file: Path) -> None:
    text = '[access]\nroles = "/r"\n[eligibility]\npolicy = "/p"\n'
    default_file.write_text(text)
    read, applied = reading(SERVE_ALONE), list[tuple[str, Any]]()
    apply = {name: lambda value, name=name: applied.append((name, value)) for name in ALL}
    again = Reconfigure(read(), read, apply)
    default_file.rename(default_file.with_suffix(".away"))
    with pytest.raises(ConfigError, match=r"hostdevd\.toml: No such file"):
        asyncio.run(again.again())
    assert applied == []
    default_file.write_text(f'{text}[log]\nlevel = "error"\n')
    asyncio.run(again.again())
    assert applied == [("log_level", "error")]


def test_a_default_file_that_was_not_there_is_read_once_it_is(default_file: Path) -> None:
    read = reading(SERVE_ALONE)
    assert read() == Config()
    default_file.write_text('[access]\nroles = "/r"\n')
    assert read().roles == Path("/r")
    default_file.unlink()
    with pytest.raises(ConfigError):
        read()


def test_an_option_marked_as_reloaded_is_applied_and_no_other_is() -> None:
    with pytest.raises(ValueError, match="log_level"):
        Reconfigure(Config(), Config, {name: lambda _: None for name in ALL if name != "log_level"})
    with pytest.raises(ValueError, match="connect"):
        Reconfigure(Config(), Config, {name: lambda _: None for name in (*ALL, "connect")})
