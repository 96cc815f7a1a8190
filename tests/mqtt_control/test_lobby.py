"""The lobby: bounded, and no way to shut others out."""

from __future__ import annotations

from mqtt_control.lobby import Lobby


def test_the_one_that_has_waited_longest_gives_way() -> None:
    lobby: Lobby[int] = Lobby(max_guests=3, max_per_source=10)
    assert [lobby.enter(number, "a") for number in range(5)] == [None, None, None, 0, 1]
    lobby.leave(2)
    lobby.leave(2)
    assert len(lobby) == 2
    assert lobby.enter(5, "a") is None
    assert lobby.enter(6, "b") == 3
    assert [lobby.oldest_leaves() for _ in range(4)] == [4, 5, 6, None]
    assert (len(lobby), lobby._by_source) == (0, {})


def test_a_source_displaces_its_own_before_those_of_others() -> None:
    lobby: Lobby[str] = Lobby(max_guests=10, max_per_source=2)
    assert lobby.enter("honest", "b") is None
    assert [lobby.enter(f"a{number}", "a") for number in range(4)] == [None, None, "a0", "a1"]
    lobby.leave("honest")
    assert len(lobby) == 2


def test_a_source_without_a_name_is_bounded_by_the_whole_alone() -> None:
    lobby: Lobby[int] = Lobby(max_guests=5, max_per_source=1)
    assert [lobby.enter(number, "") for number in range(6)] == [None] * 5 + [0]
