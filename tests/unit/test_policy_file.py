"""The policy file itself: where it is told, what is read of it, and what a SIGHUP does."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from hostdevd.config import ConfigError, load
from hostdevd.core.history import ChangeSource
from hostdevd.core.policy import NO_POLICY, PolicyError
from hostdevd.core.store import Store
from hostdevd.policy_file import POLICY_FILE, into
from hostdevd.reload import Reload
from hostdevd.rules_file import MOST_BYTES, RulesFile, read_rules
from unit.core.made import pci, store

NIC = pci("01:00.0")
DENY = '[[deny]]\nname = "no"\nclass = "02"\n'


def refusal(path: Path) -> str:
    with pytest.raises(PolicyError) as error:
        read_rules(POLICY_FILE, path)
    message = str(error.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return message


# --- the option ------------------------------------------------------------------------------------------


def test_the_path_is_an_option_a_variable_and_a_key(tmp_path: Path) -> None:
    file = tmp_path / "hostdevd.toml"
    file.write_text('[eligibility]\npolicy = "from-file.toml"\n')
    variable = {"HOSTDEVD_ELIGIBILITY_POLICY": "from-environment.toml"}
    assert load({"policy": "from-option.toml"}, variable, file).policy == Path("from-option.toml")
    assert load({}, variable, file).policy == Path("from-environment.toml")
    assert load({}, {}, file).policy == Path("from-file.toml")
    assert load({}, {}, None).policy is None


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="HOSTDEVD_ELIGIBILITY_POLICY"):
        load({}, {"HOSTDEVD_ELIGIBILITY_POLICY": ""}, None)


# --- reading ---------------------------------------------------------------------------------------------


def test_a_relative_path_begins_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policy.toml").write_text(DENY)
    monkeypatch.chdir(tmp_path)
    assert [rule.name for rule in read_rules(POLICY_FILE, Path("policy.toml")).deny] == ["no"]


def test_an_empty_file_has_no_rules(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.touch()
    assert read_rules(POLICY_FILE, file) == NO_POLICY


@pytest.mark.parametrize(("mode", "is_read"), [(0o640, True), (0o664, True), (0o646, False), (0o666, False)])
def test_a_file_that_everybody_can_write_is_refused(tmp_path: Path, mode: int, is_read: bool) -> None:  # noqa: FBT001
    file = tmp_path / "policy.toml"
    file.write_text(DENY)
    file.chmod(mode)
    if is_read:
        assert read_rules(POLICY_FILE, file).deny
    else:
        assert refusal(file).endswith(f"can be written by everybody: chmod o-w {file}")


@pytest.mark.parametrize(
    "content",
    [
        b"[[deny",
        b"\xff\xfe",
        b'[[deny]]\nname = "no"\n',
        b"deny = " + b"[" * 20_000,
        b"deny = " + b"9" * 5000,
        b"# " + b"x" * MOST_BYTES,
    ],
    ids=["no TOML", "no UTF-8", "no policy", "nested", "long number", "large"],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "policy.toml"
    file.write_bytes(content)
    refusal(file)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.toml")
    assert "directory" in refusal(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "no regular file" in refusal(pipe)
    refusal(Path("/dev/zero"))


# --- SIGHUP ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def following(path: Path | None) -> AsyncIterator[tuple[Reload, Store]]:
    file, found, reload = RulesFile(POLICY_FILE, path), store(), Reload()
    with found.change(ChangeSource.EVENT):
        found.put_devices([NIC])
        found.put_policy(await file.read())
    task = asyncio.create_task(reload.follow([file.part(into(found))]))
    try:
        yield reload, found
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def denied(found: Store) -> bool:
    return not found.devices[NIC.name].eligibility.eligible


async def until_told(logs: list[structlog.typing.EventDict], text: str) -> structlog.typing.EventDict:
    async with asyncio.timeout(10):
        while not (told := [one for one in logs if text in one["event"]]):  # noqa: ASYNC110  logs set no event
            await asyncio.sleep(0.005)
    return told[-1]


async def test_a_good_file_replaces_the_policy_and_a_broken_one_does_not(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(DENY)
    async with following(file) as (reload, found):
        assert denied(found)
        for broken in ("[[deny]", '[[deny]]\nname = "lan"\nid = "x"', None):
            if broken is None:
                file.unlink()
            else:
                file.write_text(broken)
            with structlog.testing.capture_logs() as logs:
                reload.ask()
                told = await until_told(logs, "refused, the old one stays")
            assert told["log_level"] == "error"
            assert str(file) in told["reason"]
            assert denied(found)
        file.write_text("")
        with structlog.testing.capture_logs() as logs:
            reload.ask()
            await until_told(logs, "read again")
        assert not denied(found)


async def test_without_a_policy_file_a_hangup_is_harmless() -> None:
    async with following(None) as (reload, found):
        with structlog.testing.capture_logs() as logs:
            reload.ask()
            await until_told(logs, "not configured")
        assert not denied(found)


async def test_a_fault_while_a_policy_is_applied_does_not_end_the_following(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "policy.toml"
    file.touch()
    async with following(file) as (reload, found):

        def broken(_policy: object) -> None:
            raise RuntimeError("a fault")

        file.write_text(DENY)
        with monkeypatch.context() as failing, structlog.testing.capture_logs() as logs:
            failing.setattr(found, "put_policy", broken)
            reload.ask()
            await until_told(logs, "could not be applied")
        changed = asyncio.Event()
        found.on_commit.append(lambda _: changed.set())
        reload.ask()
        await asyncio.wait_for(changed.wait(), 10)
        assert denied(found)


# --- what the documentation shows ----------------------------------------------------------------------------


def test_the_documented_example_is_a_policy(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "policy.md").read_text()
    (example,) = re.findall(r"```toml policy.toml\n(.*?)```", page, re.DOTALL)
    file = tmp_path / "policy.toml"
    file.write_text(example)
    policy = read_rules(POLICY_FILE, file)
    assert policy.allow
    assert policy.deny
    keys = {key for rule in (*policy.allow, *policy.deny) for key, _ in rule.matchers}
    assert keys == {"type", "class", "id", "address", "uid", "driver"}
