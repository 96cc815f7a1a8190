"""Which worker answers a device at the broker: always one, and as few changes as can be."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bridge.workers.share import Share, owner_of

MEMBERS = st.sets(st.integers(0, 4)).map(sorted)
FLEET = [f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}" for number in range(3000)]


@given(st.text(max_size=20), MEMBERS)
def test_one_that_serves(device_id: str, members: list[int]) -> None:
    owner = owner_of(device_id, count=5, members=members)
    assert owner in members if members else owner is None


def test_neighbouring_ids_are_spread_evenly() -> None:
    at_home = Counter(owner_of(device_id, count=3, members=[0, 1, 2]) for device_id in FLEET)
    assert all(900 < count < 1100 for count in at_home.values())
    of_the_first = [device_id for device_id in FLEET if owner_of(device_id, count=3, members=[0, 1, 2]) == 0]
    stand_ins = Counter(owner_of(device_id, count=3, members=[1, 2]) for device_id in of_the_first)
    assert all(400 < count < 600 for count in stand_ins.values())


@given(MEMBERS)
def test_nobody_moves_while_its_home_serves(members: list[int]) -> None:
    for device_id in FLEET[:100]:
        home = owner_of(device_id, count=5, members=range(5))
        if home in members:
            assert owner_of(device_id, count=5, members=members) == home


@given(st.lists(MEMBERS, min_size=1, max_size=6), st.data())
def test_never_two_answer_whatever_the_order(changes: list[list[int]], data: st.DataObject) -> None:
    """Workers hear of each step one after the other, in any order; the second step comes when all have done the first."""
    shares = [Share(index, count=5) for index in range(5)]
    for members in changes:
        for step in (Share.prepare, Share.settle):
            for share in data.draw(st.permutations(shares)):
                step(share, members)
                assert all(sum(share.has(device_id) for share in shares) <= 1 for device_id in FLEET[:20])
        assert all(sum(share.has(device_id) for share in shares) == bool(members) for device_id in FLEET[:20])
