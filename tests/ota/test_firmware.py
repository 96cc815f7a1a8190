"""What is offered to whom: the decision alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.firmware import (
    MAX_OFFERS,
    Decision,
    DeviceBuild,
    FirmwareFile,
    FirmwareIndex,
    FirmwareState,
    board_key,
    decide,
    version_key,
)

FRESH = FirmwareState()
BUILD = DeviceBuild(("bread",), "2.4.2", "esp32s3", 4_000_000, frozenset({"ota_0", "assets"}))


def file(version: str = "2.5.0", board: str = "bread", **changes: object) -> FirmwareFile:
    made = FirmwareFile(board, version, f"digest of {board} {version}", 2_000_000, "esp32s3", "xiaozhi")
    return replace(made, **changes)  # type: ignore[arg-type]


def offered(files: list[FirmwareFile], build: DeviceBuild = BUILD, state: FirmwareState = FRESH) -> str | None:
    decision = decide(FirmwareIndex(files), build, state)
    return decision.file.version if decision.file else None


@pytest.mark.parametrize(
    ("older", "newer"),
    [("2.4.2", "2.4.3"), ("2.4.2", "2.10"), ("1.2", "1.2.0"), ("2.4.2", "3"), ("9", "10"), ("1.09", "1.10"), ("0.9.9", "1")],
)
def test_newer_as_the_firmware_compares(older: str, newer: str) -> None:
    assert version_key(newer) > version_key(older)
    plain = [file(newer, project="other")]
    assert offered(plain, replace(BUILD, version=older)) == newer
    assert offered([file(older, project="other")], replace(BUILD, version=newer)) is None
    assert offered(plain, replace(BUILD, version=newer)) is None


@pytest.mark.parametrize("version", ["", "v1", "1..2", "99999999999"])
def test_what_is_no_version(version: str) -> None:
    with pytest.raises(ValueError, match="no version"):
        version_key(version)


def test_the_newest_is_offered() -> None:
    assert offered([file("2.4.10"), file("2.4.9"), file("2.4.2"), file("2.3.0")]) == "2.4.10"


def test_the_exact_name_of_the_board_comes_first() -> None:
    files = [file("2.6.0", "wifi"), file("2.5.0", "bread")]
    assert offered(files, replace(BUILD, boards=("Bread", "wifi"))) == "2.5.0"
    assert offered(files, replace(BUILD, boards=("other", "wifi"))) == "2.6.0"
    assert offered(files, replace(BUILD, boards=("other",))) is None
    assert offered(files, replace(BUILD, boards=())) is None


@pytest.mark.parametrize("version", ["", "v2.4.2", "latest", "1..2", "2.4.2-dirty", "99999999999", "1.2\n", "1" * 40])
def test_unknown_version_gets_nothing(version: str) -> None:
    assert offered([file()], replace(BUILD, version=version)) is None
    assert decide(FirmwareIndex([file()]), replace(BUILD, version=version), FirmwareState(force="2.5.0")).file is None


@pytest.mark.parametrize(
    ("build", "image", "reason"),
    [
        (BUILD, file(chip="esp32"), "esp32s3"),
        (BUILD, file(size_bytes=4_000_001), "partition"),
        (replace(BUILD, version="1.9.0", partitions=frozenset({"ota_0", "model"})), file(), "partition table"),
        (replace(BUILD, version="1.9.0", partitions=frozenset()), file(), "partition table"),
    ],
)
def test_what_the_device_cannot_run_is_not_offered(build: DeviceBuild, image: FirmwareFile, reason: str) -> None:
    decision = decide(FirmwareIndex([image]), build, FRESH)
    assert decision.file is None
    assert reason in decision.note
    forced = decide(FirmwareIndex([image]), build, FirmwareState(force=image.version))
    assert (forced.file, forced.state.force) == (None, "")
    assert reason in forced.note


def test_what_is_unknown_speaks_against_nothing() -> None:
    assert offered([file(chip="")]) == "2.5.0"
    assert offered([file()], DeviceBuild(("bread",), "2.4.2")) == "2.5.0"
    assert offered([file("2.5.0", project="my own")], replace(BUILD, version="1.0", partitions=frozenset({"x"}))) == "2.5.0"


def test_an_older_file_that_fits_is_taken_instead() -> None:
    assert offered([file("2.6.0", chip="esp32"), file("2.5.0")]) == "2.5.0"


def visits(index: FirmwareIndex, state: FirmwareState, count: int, build: DeviceBuild = BUILD) -> tuple[list[str | None], FirmwareState]:
    found = []
    for _ in range(count):
        decision = decide(index, build, state)
        state = decision.state
        found.append(decision.file.version if decision.file else None)
    return found, state


def test_a_device_that_keeps_coming_back_is_left_in_peace() -> None:
    index = FirmwareIndex([file("2.5.0"), file("2.4.3")])
    got, state = visits(index, FRESH, MAX_OFFERS + 3)
    assert got == ["2.5.0"] * MAX_OFFERS + [None] * 3
    assert state.held
    # the file has changed: another content of the same version
    assert visits(FirmwareIndex([file("2.5.0", digest="other")]), state, 5)[0] == ["2.5.0"] * MAX_OFFERS + [None] * 2
    # a file that is gone for a moment changes nothing
    assert visits(index, visits(FirmwareIndex(), state, 1)[1], 1)[0] == [None]
    # it has got there after all
    assert decide(index, replace(BUILD, version="2.5.0"), state) == Decision(FRESH)


def test_force_goes_out_once() -> None:
    index = FirmwareIndex([file("2.5.0"), file("2.4.2"), file("2.3.0")])
    first = decide(index, BUILD, FirmwareState(force="2.4.2"))
    assert first.file is not None
    assert (first.file.version, first.force, first.state.force) == ("2.4.2", True, "")
    second = decide(index, BUILD, first.state)
    assert (second.file, second.force) == (None, False)


def test_what_was_forced_stays_although_something_newer_lies_there() -> None:
    index = FirmwareIndex([file("2.5.0"), file("2.3.0")])
    state = decide(index, BUILD, FirmwareState(force="2.3.0")).state
    back = replace(BUILD, version="2.3.0")
    assert visits(index, state, 3, back)[0] == [None] * 3
    assert visits(FirmwareIndex([file("2.6.0"), file("2.5.0"), file("2.3.0")]), state, 1, back)[0] == ["2.6.0"]


def test_force_of_what_is_not_there_is_withdrawn() -> None:
    decision = decide(FirmwareIndex([file("2.5.0", "other")]), BUILD, FirmwareState(force="2.5.0"))
    assert (decision.file, decision.force, decision.state.force) == (None, False, "")
    assert "no such file" in decision.note


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("bread-compact-wifi", "bread-compact-wifi"),
        ("Waveshare/ESP32-S3 1.8", "waveshare-esp32-s3-1.8"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", ""),
        ("测试", ""),
        ("a\0b", "a-b"),
        ("x" * 500, "x" * 64),
    ],
)
def test_board_names(name: str, key: str) -> None:
    assert board_key(name) == key


names = st.text(max_size=20)
versions = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,4}", fullmatch=True)


@given(st.lists(versions, max_size=6), st.one_of(versions, names), st.lists(names, max_size=3), st.one_of(st.just(""), versions))
def test_no_update_loop_whatever_lies_there(found: list[str], running: str, boards: list[str], force: str) -> None:
    """A device that never gets any further is offered something a bounded number of times, and force at most once."""
    keys = {key for name in (*boards, "bread") if (key := board_key(name))}
    index = FirmwareIndex(file(version, key, project="x") for version in set(found) for key in keys)
    build, state = DeviceBuild((*boards, "bread"), running), FirmwareState(force=force)
    decisions = []
    for _ in range(8):
        decisions.append(decide(index, build, state))
        state = decisions[-1].state
    assert sum(decision.file is not None for decision in decisions) <= MAX_OFFERS + 1
    assert sum(decision.force for decision in decisions) <= 1
    for decision in decisions:
        if decision.file is not None and not decision.force:
            assert version_key(decision.file.version) > version_key(running)
