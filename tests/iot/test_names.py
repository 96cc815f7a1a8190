"""Device tool names and model names are mapped exactly both ways."""

import re

from hypothesis import given
from hypothesis import strategies as st

from iot.names import NameTable

MODEL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def test_check_083_dots_are_mapped_and_mapped_back() -> None:
    table = NameTable()
    assert table.safe("self.audio_speaker.set_volume") == "self_audio_speaker_set_volume"
    assert table.device("self_audio_speaker_set_volume") == "self.audio_speaker.set_volume"
    assert table.device("self_reboot") is None


def test_names_that_look_alike_stay_apart() -> None:
    table = NameTable(reserved=["get_time"])
    names = ["self.a.b", "self.a_b", "self_a_b", "self a b", "get.time", "x" * 70, "x" * 71, "电灯", "电视"]
    safe = [table.safe(name) for name in names]
    assert len(set(safe)) == len(names)
    assert "get_time" not in safe
    assert [table.device(name) for name in safe] == names
    assert [table.safe(name) for name in names] == safe


@given(st.lists(st.text(max_size=90), unique=True, max_size=30))
def test_round_trip_of_any_names(names: list[str]) -> None:
    table = NameTable()
    safe = [table.safe(name) for name in names]
    assert all(MODEL_NAME.fullmatch(name) for name in safe)
    assert [table.device(name) for name in safe] == names


@given(st.lists(st.from_regex(r"[ab][._][ab]", fullmatch=True), unique=True, max_size=12))
def test_round_trip_of_names_that_collide(names: list[str]) -> None:
    table = NameTable()
    assert [table.device(table.safe(name)) for name in names] == names
