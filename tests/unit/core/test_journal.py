"""What is written is read again, by this version and not by an older one; what cannot be written is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostdevd.core.assignments import AssignedDevice, Assignment, AssignmentCondition, AssignmentState, Failure
from hostdevd.core.audit import Asked
from hostdevd.core.errors import HostdevError
from hostdevd.core.identity import Identity
from hostdevd.core.journal import REVISION_BLOCK, Journal, RequestRecord
from hostdevd.core.model import ConditionCode, HolderRole, Reason, Vm, VmState
from hostdevd.core.records import assignment_from_json, to_json

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ONE = Assignment(
    "one",
    Vm("vm", "c0ffee00-0000-4000-8000-000000000001", VmState.RUNNING),
    (
        AssignedDevice("pci_0000_04_00_0", "dev-0", "ua-hostdev-x-0", original_driver="e1000e", adds_live=True),
        AssignedDevice("usb_2_2", "dev-1", "ua-hostdev-x-1", HolderRole.RESERVED, type="usb_device", by_service=True),
    ),
    AssignmentState.ATTACHING,
    NOW,
    NOW,
    group="grp-1",
    conditions=(AssignmentCondition(ConditionCode.GROUP_SPLIT, "text", NOW, "pci_0000_04_00_0", "remedy"),),
    failure=Failure("ATTACH_FAILED", "text", (("step", "VERIFY"),), (Reason("BRIDGE", "x", "y", "z"),)),
    pending_live=True,
    pending_request="request",
)
REQUEST = RequestRecord("request", "me", "fingerprint", "one", 1000.0)


async def reopened(journal: Journal, directory: Path) -> Journal:
    await journal.close()
    return Journal(directory)


def test_a_record_is_read_as_it_was_written() -> None:
    assert assignment_from_json(to_json(ONE)) == ONE


@given(
    st.sampled_from(AssignmentState), st.text(), st.booleans(), st.none() | st.text(), st.sampled_from(ConditionCode)
)
def test_any_record_is_read_as_it_was_written(
    state: AssignmentState,
    text: str,
    flag: bool,  # noqa: FBT001
    driver: str | None,
    code: ConditionCode,
) -> None:
    device = AssignedDevice(text, text, text, original_driver=driver, ours=flag)
    condition = AssignmentCondition(code, text, NOW, text, text)
    record = replace(ONE, state=state, devices=(device,), conditions=(condition,), failure=None, live=flag)
    assert assignment_from_json(to_json(record)) == record


async def test_a_journal_goes_on_where_it_ended(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first = await journal.open()
    await journal.save(ONE, request=REQUEST)
    await journal.save_identities([Identity("dev-0", ("strong", "weak"))])
    await journal.reserve_revisions(REVISION_BLOCK)
    journal = await reopened(journal, tmp_path)
    again = await journal.open()
    assert again.lives.epoch == first.lives.epoch
    assert again.assignments == (ONE,)
    assert again.requests == (REQUEST,)
    assert again.identities == (Identity("dev-0", ("strong", "weak")),)
    assert again.revision > REVISION_BLOCK
    await journal.forget(ONE, Asked(1.0, "ForgetAssignment", "uid:0"))
    journal = await reopened(journal, tmp_path)
    last = await journal.open()
    assert last.assignments == ()
    assert last.requests == (REQUEST,)
    await journal.close()


async def test_a_write_that_fails_changes_nothing_and_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    await journal.open()
    db = journal._db
    assert db is not None
    await journal._run(lambda: db.execute("PRAGMA query_only = ON"))
    with pytest.raises(HostdevError) as refused:
        await journal.save(ONE, request=REQUEST)
    assert refused.value.reason == "STATE_STORE_UNAVAILABLE"
    assert refused.value.retry_after_s
    assert journal.fault
    await journal._run(lambda: db.execute("PRAGMA query_only = OFF"))
    await journal.save(replace(ONE, name="two"))
    assert journal.fault is None
    journal = await reopened(journal, tmp_path)
    assert [one.name for one in (await journal.open()).assignments] == ["two"]
    await journal.close()


async def test_what_is_old_goes_and_a_request_stays_as_long_as_its_assignment(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    await journal.open()
    closed = replace(ONE, name="old", state=AssignmentState.DETACHED)
    await journal.save(closed, request=replace(REQUEST, request_id="old", assignment="old"))
    await journal.save(ONE, request=REQUEST)
    later = NOW.timestamp() + 1
    assert await journal.purge(assignments_before=NOW.timestamp() - 1, requests_before=later) == ()
    assert await journal.purge(assignments_before=later, requests_before=later) == ("old",)
    journal = await reopened(journal, tmp_path)
    loaded = await journal.open()
    assert [one.name for one in loaded.assignments] == ["one"]
    assert loaded.requests == (REQUEST,)
    await journal.close()


async def test_steps_tell_which_unplug_requests_were_sent(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    await journal.open()
    early = await journal.begin_step("one", "DETACH_LIVE", "a", 10.0)
    await journal.end_step(early, 11.0, "done")
    sent = await journal.begin_step("one", "DETACH_LIVE", "b", 20.0)
    await journal.end_step(sent, 21.0, "done")
    await journal.begin_step("one", "DETACH_LIVE", "c", 22.0)
    await journal.begin_step("one", "DETACH_CONFIG", "d", 23.0)
    assert await journal.unplugs("one", 15.0) == {"b": 20.0, "c": 22.0}
    await journal.close()


@pytest.mark.parametrize("how", ["removed", "replaced", "moved away with its directory"])
async def test_a_file_that_is_taken_away_is_told_and_nothing_is_written_beside_it(tmp_path: Path, how: str) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    journal = Journal(directory)
    await journal.open()
    file = directory / "state.sqlite"
    if how == "removed":
        file.unlink()
    elif how == "replaced":
        file.rename(directory / "old")
        file.write_bytes((directory / "old").read_bytes())
    else:
        directory.rename(tmp_path / "away")
    await journal.look()
    assert journal.fault is not None
    assert "removed or replaced" in journal.fault.why
    with pytest.raises(HostdevError) as refused:
        await journal.save_identities([Identity("dev-0", ("key",))])
    assert refused.value.reason == "STATE_STORE_UNAVAILABLE"
    if how == "moved away with its directory":
        (tmp_path / "away").rename(directory)
        await journal.save_identities([Identity("dev-0", ("key",))])
        assert journal.fault is None
    await journal.close()
