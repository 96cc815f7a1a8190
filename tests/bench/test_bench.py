"""The benches must still run when somebody needs them, and their arithmetic must be right; their figures are not tested."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.__main__ import PARTS, main
from bench.devices import Plan, silence_after
from bench.endpoint import end_packets
from bench.idle import cost, whole
from bench.report import Options, Row, markdown_table, median, percentile, text_table
from bench.turns import RECORDING, scripted_run
from settings.providers import SileroVad
from tests.bridge.certificates import write_certificate
from tests.scripted import EnergyVad, tone


def test_a_goal_is_met_or_missed_by_something() -> None:
    def row(value: float, *, at_most: float | None = None, at_least: float | None = None) -> Row:
        return Row(part="p", case="c", value=value, unit="ms", at_most=at_most, at_least=at_least)

    assert (row(9.96, at_most=10).goal, row(9.96, at_most=10).verdict) == ("<= 10.0", "met")
    assert row(12.5, at_most=10).verdict == "missed by 2.5"
    assert row(14_000, at_least=15_000).verdict == "missed by 1,000"
    assert row(15_000, at_least=15_000).verdict == "met"
    assert (row(1).goal, row(1).verdict) == ("", "")
    assert row(math.nan, at_most=10).verdict.startswith("missed"), "nothing measured is no success"


def test_tables_have_a_line_a_row() -> None:
    rows = [Row(part="turn", case="overhead", value=0.0123, unit="ms", at_most=1), Row(part="mqtt", case="rate", value=119170, unit="/s")]
    lines = markdown_table(rows).splitlines()
    assert lines[2:] == [
        "| turn | overhead | 0.0123 ms | <= 1 | met |  |",
        "| mqtt | rate | 119,170 /s |  |  |  |",
    ]
    assert len(text_table(rows).splitlines()) == 3


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (median(values), percentile(values, 99), percentile(values, 100)) == (50, 99, 100)
    assert median([3.0]) == 3
    assert math.isnan(median([]))


async def test_the_packet_that_ends_an_utterance_follows_from_windows_and_frames() -> None:
    """1.15 s of voice and the codec's delay end inside window 36 of 512; 16 silent windows later, sample 27136, is in packet 28 of 960."""
    ends = await end_packets(silence_after(tone(1.15)), EnergyVad(), SileroVad())
    assert len(ends) == 8
    assert ends[0] == 28
    assert set(ends) <= {27, 28}


def test_parts_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "opus", "--quick", "--markdown"])
    main()
    assert "| opus | decode 60 ms, 16 kHz |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "nothing"])
    with pytest.raises(SystemExit):
        main()
    assert ", ".join(PARTS) in capsys.readouterr().err


@pytest.mark.slow
def test_scripted_turns_of_real_devices(tmp_path: Path) -> None:
    plan = Plan(ota_url="", recording=str(RECORDING), devices=2, turns=2, pause_s=0.1)
    result = scripted_run(Options(quick=True, data_dir=tmp_path), vad="energy", sentences=1, sentence_s=1.2, plan=plan)
    assert (len(result.turns), result.failed) == (4, [])
    assert len(result.overheads_ms(first=True)) == 2
    assert all(len(turn["pace_ms"]) == math.ceil(1.2 / 0.06) - 4 for turn in result.turns)
    assert all(math.isfinite(overhead) for overhead in result.overheads_ms())
    assert np.isfinite(result.server["lag_p99_ms"])


@pytest.mark.slow
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_idle_devices_of_the_whole_bridge(tmp_path: Path, *, secure: bool) -> None:
    files = write_certificate(tmp_path / "own", names=["127.0.0.1"]) if secure else None
    tls = {"authority": str(files[0])} if files else {}
    found = cost(whole(Options(quick=True, data_dir=tmp_path), files), 30, tls)
    assert found.ping_us > 0
    assert math.isfinite(found.memory_kb)
    assert found.keepalive_percent(120) == pytest.approx(found.ping_us / 1e4)
