"""Places for connections: what one visitor, all of them, and those at one door may take, and who makes way."""

from __future__ import annotations

import pytest

from hostdevd.front.places import NoPlaceError, Place, Places, Strangers


def filled(places: Places, door: str, who: str) -> list[Place]:
    """As many as one visitor can have."""
    taken: list[Place] = []
    while True:
        try:
            taken.append(places.take(door, who))
        except NoPlaceError:
            return taken


def two_doors() -> Places:
    places = Places(of_one=256, total=1024)
    places.keep("socket", 4)
    places.keep("network", 8)
    return places


def test_one_visitor_has_so_many_and_gives_them_back() -> None:
    places = two_doors()
    taken = filled(places, "socket", "a")
    assert len(taken) == 256
    with pytest.raises(NoPlaceError) as refused:
        places.take("network", "a")
    assert refused.value.of == "a"
    for place in taken:
        places.leave(place)
    assert len(filled(places, "socket", "a")) == 256


def test_any_number_of_visitors_at_one_door_leaves_what_is_kept_for_another() -> None:
    places = two_doors()
    assert sum(len(filled(places, "network", f"flood {number}")) for number in range(10_000)) == 768
    with pytest.raises(NoPlaceError) as refused:
        places.take("network", "b")
    assert refused.value.of == ""
    assert len(filled(places, "socket", "b")) == 32  # few of them for one
    assert sum(len(filled(places, "socket", f"user {number}")) for number in range(100)) == 224


def test_a_user_of_the_same_door_cannot_take_with_that_what_is_kept_for_it() -> None:
    places = two_doors()
    assert len(filled(places, "socket", "greedy")) == 256  # while there were others
    for number in range(10_000):
        filled(places, "network", f"flood {number}")
    assert filled(places, "socket", "greedy") == []
    assert len(filled(places, "socket", "b")) == 32


def test_what_is_given_back_can_be_taken_again_at_each_door() -> None:
    places = two_doors()
    taken = [place for number in range(100) for place in filled(places, "network", f"flood {number}")]
    taken += filled(places, "socket", "b")
    for place in taken:
        places.leave(place)
    assert sum(len(filled(places, "network", f"flood {number}")) for number in range(100)) == 768


@pytest.mark.parametrize("total", [1, 2, 3, 4, 7, 8, 48])
def test_few_places_are_places_too(total: int) -> None:
    places = Places(of_one=256, total=total)
    for door, part in (("socket", 4), ("read-only", 8), ("loopback", 8), ("network", 8)):
        places.keep(door, part)
    taken = sum(len(filled(places, "network", f"flood {number}")) for number in range(100))
    assert 1 <= taken <= total
    assert len(filled(places, "socket", "b")) == (1 if total >= 4 else 0)


def test_the_oldest_stranger_of_whoever_has_most_goes_first() -> None:
    strangers = Strangers(4)
    assert strangers.first_to_go() is None
    for who, name in (("a", "a1"), ("b", "b1"), ("b", "b2")):
        strangers.came(who, name)
    assert not strangers.is_full
    assert (strangers.first_to_go(), strangers.first_to_go("a"), strangers.first_to_go("c")) == ("b1", "a1", None)
    strangers.came("c", "c1")
    assert strangers.is_full
    strangers.known("b", "b1")
    strangers.known("b", "b1")
    strangers.known("nobody", "b2")
    assert not strangers.is_full
    assert strangers.first_to_go() == "a1"  # all have one: the first that came
    for who, name in (("a", "a1"), ("b", "b2"), ("c", "c1")):
        strangers.known(who, name)
    assert strangers.first_to_go() is None
