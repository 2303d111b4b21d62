"""Whether libvirt still tells of node devices."""

from __future__ import annotations

from hostdevd.core.announcements import Announcements


def test_what_was_told_before_or_after_a_look_is_not_missed() -> None:
    announced = Announcements()
    announced.told("a")  # and is being read
    announced.found({"a", "b"})
    announced.told("b")  # a little late
    assert announced.missed() == frozenset()
    announced.found({"a"})  # its read takes long
    assert announced.missed() == frozenset()


def test_what_no_event_told_of_until_the_next_look_is_missed() -> None:
    announced = Announcements()
    announced.found({"a"})
    announced.told("b")
    assert announced.missed() == {"a"}
    announced.found(())
    assert announced.missed() == frozenset()


def test_what_libvirt_lists_and_cannot_look_up_is_missed_once() -> None:
    announced = Announcements()
    announced.found({"ghost"})
    assert announced.missed() == {"ghost"}
    for _ in range(3):
        announced.found({"ghost"})
        assert announced.missed() == frozenset()
    # It went, and came in silence again.
    announced.found(())
    announced.found({"ghost"})
    assert announced.missed() == {"ghost"}


def test_a_new_connection_begins_anew() -> None:
    announced = Announcements()
    announced.found({"a"})
    announced.forget()
    assert announced.missed() == frozenset()
