"""Streams of holders: a snapshot, then what changes, with tokens that go on where one stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from api import Api, refused
from google.protobuf.duration_pb2 import Duration
from hosts import Host, managed_pci
from streams import Stream

from hostdev.v1 import assignment_pb2, service_pb2
from hostdevd.core.ports import Target

UPSERT, REMOVE = service_pb2.CHANGE_KIND_UPSERT, service_pb2.CHANGE_KIND_REMOVE
LIVE = assignment_pb2.SCOPE_LIVE


@contextmanager
def watching(api: Api, **arguments: Any) -> Iterator[Stream]:
    stream = Stream(api.stub.WatchHolders(service_pb2.WatchHoldersRequest(**arguments)))
    try:
        yield stream
    finally:
        stream.end()


def test_a_snapshot_then_a_bookmark_then_one_batch_per_group(host: Host) -> None:
    api = host.api
    names = {host.roles["dual_0"], host.roles["dual_1"]}
    with watching(api) as stream:
        snapshot = stream.next("snapshot")
        assert snapshot.resume_token == ""
        assert {holder.name for holder in snapshot.snapshot.holders} == {holder.name for holder in api.holders()}
        assert stream.next("bookmark").bookmark.HasField("synced_time")
        assignment = api.attach("alpha", host.roles["dual_0"], scope=LIVE)
        batch = stream.next("change_batch")
        assert {(change.kind, change.holder.device) for change in batch.change_batch.changes} == {
            (UPSERT, name) for name in names
        }
        assert {change.source for change in batch.change_batch.changes} == {service_pb2.CHANGE_SOURCE_OPERATION}
        api.detach(assignment=assignment.name)
        gone = stream.next("change_batch").change_batch.changes
        assert {(change.kind, change.holder.device) for change in gone} == {(REMOVE, name) for name in names}


def test_a_list_then_a_watch_has_no_gap(host: Host) -> None:
    api, name = host.api, host.roles["nic_single"]
    token = api.stub.ListHolders(service_pb2.ListHoldersRequest()).resume_token
    assignment = api.attach("alpha", name, scope=LIVE)
    with watching(api, resume_token=token) as stream:
        batch = stream.next("change_batch")
        assert [(change.kind, change.holder.device) for change in batch.change_batch.changes] == [(UPSERT, name)]
        after_attach = batch.resume_token
    api.detach(assignment=assignment.name)
    with watching(api, resume_token=after_attach) as stream:
        changes = stream.next("change_batch").change_batch.changes
        assert [(change.kind, change.holder.device) for change in changes] == [(REMOVE, name)]
    with watching(
        api, resume_token=token
    ) as stream:  # it came and went, and an earlier stream may have told half of it
        changes = stream.next("change_batch").change_batch.changes
        assert [(change.kind, change.holder.device) for change in changes] == [(REMOVE, name)]


def test_changes_by_virsh_arrive(host: Host) -> None:
    api, name = host.api, host.roles["nic_single"]
    with watching(api, changes_only=True, vms=["alpha"]) as stream:
        stream.next("bookmark")
        host.virsh_attach("alpha", managed_pci(api, name, "ua-by-hand"), Target.LIVE)
        change = stream.next("change_batch").change_batch.changes[0]
        assert (change.kind, change.holder.device, change.holder.alias) == (UPSERT, name, "ua-by-hand")
        host.virsh_detach("alpha", "ua-by-hand", Target.LIVE)
        assert stream.next("change_batch").change_batch.changes[0].kind == REMOVE
        host.virsh_attach("alpha", managed_pci(api, name, "ua-by-hand"), Target.CONFIG)
        change = stream.next("change_batch").change_batch.changes[0]
        assert (change.kind, change.holder.live, change.holder.config) == (UPSERT, False, True)
        host.virsh_detach("alpha", "ua-by-hand", Target.CONFIG)
        assert stream.next("change_batch").change_batch.changes[0].kind == REMOVE


def test_a_token_of_another_life_gets_a_reset_and_a_snapshot(api: Api) -> None:
    with watching(api, resume_token=f"r1.{'0' * 32}.7") as stream:
        reset = stream.next("reset")
        assert reset.reset.reason == service_pb2.RESET_REASON_NEW_EPOCH
        stream.next("snapshot")
        stream.next("bookmark")


def test_bad_watches_are_refused(api: Api) -> None:
    for token in ("nonsense", "r1." + "0" * 300):
        with refused("INVALID_RESUME_TOKEN"):
            next(iter(api.stub.WatchHolders(service_pb2.WatchHoldersRequest(resume_token=token))))
    with refused("INVALID_FIELD") as caught:
        interval = Duration(seconds=900)
        next(iter(api.stub.WatchHolders(service_pb2.WatchHoldersRequest(bookmark_interval=interval))))
    assert caught[0].fields == ["bookmark_interval"]
