from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict

import pytest

from bench.load.pacing import Pacing, pacing, percentile
from bench.load.plan import FleetResult, impairment, parse_impairment
from bench.load.report import merge, report
from bench.load.usage import usage
from bridge.device.impairment import Impairment

FRAME_S = 0.06


def scheduled(count: int, *, lead: int, begin: float = 7.0, first: int = 1) -> list[tuple[float, int]]:
    return [(begin + max(0, number - lead + 1) * FRAME_S, first + number) for number in range(count)]


def errors_ms(found: Pacing) -> list[float]:
    return [round(error_s * 1000, 6) for error_s in found.errors_s]


@pytest.mark.parametrize("lead", [1, 4, 7])
def test_what_keeps_the_schedule_has_no_error(lead: int) -> None:
    found = pacing(scheduled(50, lead=lead, first=300), frame_s=FRAME_S)
    assert errors_ms(found) == [0.0] * 50
    assert (found.lead_frames, found.gaps, found.lost) == (lead, 0, 0)


def test_a_late_packet_is_late_alone() -> None:
    packets = scheduled(10, lead=4)
    packets[6] = (packets[6][0] + 0.025, packets[6][1])
    found = pacing(packets, frame_s=FRAME_S)
    assert errors_ms(found) == [0.0] * 6 + [25.0] + [0.0] * 3
    assert found.gaps == 0


def test_a_stall_is_a_gap_and_drift_adds_up() -> None:
    packets = [(at + (0.05 if number >= 6 else 0.0), sequence) for number, (at, sequence) in enumerate(scheduled(10, lead=4))]
    found = pacing(packets, frame_s=FRAME_S)
    assert errors_ms(found) == [0.0] * 6 + [50.0] * 4
    assert found.gaps == 1  # 110 ms


def test_a_lost_packet_is_neither_late_nor_a_gap() -> None:
    packets = scheduled(20, lead=4)
    del packets[10:12]
    found = pacing(packets, frame_s=FRAME_S)
    assert max(errors_ms(found)) == 0.0
    assert (found.gaps, found.lost) == (0, 2)


def test_the_first_packet_may_be_the_late_one() -> None:
    packets = scheduled(10, lead=1)
    packets[0] = (packets[0][0] + 0.01, 1)
    assert errors_ms(pacing(packets, frame_s=FRAME_S)) == [10.0] + [0.0] * 9


def test_nothing_came() -> None:
    assert pacing([], frame_s=FRAME_S) == Pacing((), 0, 0, 0)


def test_percentiles_by_hand() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50.0, 90.0, 99.0, 100.0]
    assert percentile([3.0], 0.01) == 3.0
    assert percentile([], 0.5) == 0.0


def test_impairments_are_read() -> None:
    options = parse_impairment("loss=0.02,jitter=20,seed=3")
    assert impairment(options, seed=4) == Impairment(loss=0.02, jitter_ms=20, seed=7)
    assert impairment(parse_impairment("")) is None
    for wrong in ("los=1", "loss=2", "loss"):
        with pytest.raises(ValueError, match=r"known are|between|convert"):
            parse_impairment(wrong)


def test_processes_are_added_up_and_judged() -> None:
    one = FleetResult(turns=2, pacing_ms=[1.0, 2.0], failures={"HelloError": 1}, lead_frames=[4, 4])
    two = FleetResult(turns=1, pacing_ms=[30.0], failures={"HelloError": 1, "OtaError": 2}, lead_frames=[4])
    whole = merge([one, two])
    assert (whole.turns, whole.pacing_ms, whole.failures) == (3, [1.0, 2.0, 30.0], {"HelloError": 2, "OtaError": 2})
    assert not report(whole, devices=2, turns_wanted=6, wall_s=1.0).within_limit
    assert report(FleetResult(**asdict(one) | {"failures": {}}), devices=1, turns_wanted=2, wall_s=1.0).within_limit
    assert not report(FleetResult(turns=1, pacing_ms=[30.0]), devices=1, turns_wanted=1, wall_s=1.0).within_limit


def test_usage_of_this_process() -> None:
    found = usage(os.getpid())
    if found is None:
        pytest.skip("no /proc")
    assert found.cpu_s > 0
    assert found.rss_bytes > 10_000_000
    assert usage(2**31 - 1) is None


@pytest.mark.slow
@pytest.mark.timeout(100)
async def test_a_small_run_over_real_sockets() -> None:
    arguments = "--devices 2 --processes 2 --turns 1 --ramp 0.2 --think 0 --answer-s 1 --aead --json".split()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.load", *arguments, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    found = json.loads(output)
    assert process.returncode == 0
    assert (found["devices"], found["turns"], found["failures"], found["lost"]) == (2, 2, {}, 0)
    assert found["packets"] >= 2 * 17
    assert found["first_audio_ms"]["p50"] > 0


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.timeout(100)
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_few_talkers_are_heard(workers: int) -> None:
    arguments = f"talkers --devices 3 --seconds 2 --workers {workers} --server-cores= --generator-cores= --json".split()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.load", *arguments, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    found = json.loads(output)
    assert process.returncode == 0
    assert (found["devices"], found["failed"], found["lost"], found["dropped"]) == (3, 0, 0, 0)
    assert found["windows_a_packet"] > 1
    assert found["packet_us"] > 0
