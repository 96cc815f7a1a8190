"""What a turn costs beyond its models, how evenly answers are sent, and how late the loop is meanwhile.

Overhead of a turn = (first audio packet of the answer received by the device - last voiced packet sent by it)
- the closing silence, from the last voiced packet to the one with which ``vad.silence_ms`` is complete
- the fixed delays of the scripted engines (recogniser, first piece of the model's text, voice).
The 130 ms that the protocol wants between `tts start` and the first packet pass while the engines "work", so nothing is
taken off for them. What remains is the server's: receive, decipher, decode, VAD, endpointing, the turn's tasks, resampling,
encoding, sending; and the loopback and the scheduling of both processes.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.child import Child
from bench.devices import Plan, with_silence
from bench.endpoint import end_packets
from bench.engines import DELAYS_MS, VadKind
from bench.report import Options, Row, median, percentile
from providers.base import Vad
from providers.factory import build_vad
from providers.models import ModelStore
from settings.providers import SileroVad
from tests.scripted import EnergyVad

RECORDING = Path("examples/question_en.wav")
GOALS_MS = {10: ("p50", 10.0), 100: ("p99", 60.0), 200: ("p99", 60.0)}


@dataclass(frozen=True, slots=True)
class Result:
    """One run: the turns of all devices, and the server's own figures for that time."""

    turns: list[dict[str, Any]]
    failed: list[str]
    late_frames: int
    generator_lag_p99_ms: float
    server: dict[str, float]
    cpu_s: float

    def overheads_ms(self, *, first: bool | None = None) -> list[float]:
        """Of all turns, or only of the devices' first ones, or only of the later ones."""
        return [turn["answer_ms"] - DELAYS_MS for turn in self.turns if first is None or (turn["number"] == 0) is first]

    def all_of(self, name: str) -> list[float]:
        return [value for turn in self.turns for value in turn[name]]


@contextmanager
def server(options: Options, *, settings: dict[str, Any] | None = None, scripted: dict[str, Any] | None = None) -> Iterator[Child]:
    """A bridge of our own on free ports, with its own registry of devices; its first line has been read."""
    with tempfile.TemporaryDirectory(prefix="xiaozhi-bench-") as scratch:
        models = (options.data_dir / "models").resolve()
        models.mkdir(parents=True, exist_ok=True)
        (Path(scratch) / "models").symlink_to(models, target_is_directory=True)
        ports = dict.fromkeys(("http.port", "mqtt.port", "udp.port"), 0)
        hosts = dict.fromkeys(("http.host", "mqtt.host", "udp.host", "advertise.host"), "127.0.0.1")
        tree = {"data_dir": scratch, "enrolment": "open", **ports, **hosts, **(settings or {})}
        with Child("bench.server", {"settings": tree, "scripted": scripted, "log": str(Path(scratch) / "log")}) as child:
            yield child


def converse(bridge: Child, ota_url: str, plan: dict[str, Any]) -> Result:
    """Let devices talk to a running bridge."""
    with Child("bench.devices", {"ota_url": ota_url, "recording": str(RECORDING)} | plan) as devices:
        devices.hear()
        before = bridge.ask({})
        said = devices.ask({})
        after = bridge.ask({})
    return Result(said["turns"], said["failed"], said["late_frames"], said["lag_p99_ms"], after, after["cpu_s"] - before["cpu_s"])


def ends(vad: VadKind, options: Options) -> tuple[int, ...]:
    """The packets with which the recording's closing silence is complete, as this detector hears it."""

    async def find() -> tuple[int, ...]:
        detector: Vad = build_vad(SileroVad(), store=ModelStore(options.data_dir / "models")) if vad == "silero" else EnergyVad()
        try:
            return await end_packets(with_silence(RECORDING), detector, SileroVad())
        finally:
            await detector.aclose()

    return asyncio.run(find())


def scripted_run(options: Options, *, vad: VadKind, sentences: int, sentence_s: float, plan: Plan) -> Result:
    with server(options, scripted={"vad": vad, "sentences": sentences, "sentence_s": sentence_s}) as bridge:
        ota_url = bridge.hear()["ota_url"]
        return converse(bridge, ota_url, asdict(plan) | {"ota_url": ota_url, "end_packets": ends(vad, options)})


def measure(options: Options) -> Iterator[Row]:
    """All rows of this part."""
    yield from _overhead(options)
    yield from _pacing(options)


def _overhead(options: Options) -> Iterator[Row]:
    many = (1, 10) if options.quick else (1, 10, 20, 100, 200)
    runs: list[tuple[VadKind, int]] = [("silero", devices) for devices in many]
    runs += [("energy", devices) for devices in many if devices not in {20, 200}]
    for vad, devices in runs:
        turns = 3 if options.quick else {1: 6, 10: 5, 20: 5, 100: 5, 200: 3}[devices]
        plan = Plan(ota_url="", recording=str(RECORDING), devices=devices, turns=turns, pause_s=0.2 if devices == 1 else 2.5)
        result = scripted_run(options, vad=vad, sentences=1, sentence_s=1.2, plan=plan)
        yield from _overhead_rows(vad, devices, result)


def _overhead_rows(vad: str, devices: int, result: Result) -> Iterator[Row]:
    every = result.overheads_ms()
    goal_name, goal_ms = GOALS_MS.get(devices, ("", 0.0))
    case = f"overhead, {devices} device{'s' if devices > 1 else ''}, {vad} VAD"
    counts = f"{len(every)} turns" + (f", {len(result.failed)} failed" if result.failed else "")
    for name, percent in (("p50", 50), ("p99", 99) if len(every) >= 100 else ("max", 100)):
        goal = goal_ms if name == goal_name else None
        yield Row(part="turn", case=f"{case}: {name}", value=percentile(every, percent), unit="ms", at_most=goal, note=counts)
    if devices in {1, 100}:
        first, later = result.overheads_ms(first=True), result.overheads_ms(first=False)
        yield Row(
            part="turn",
            case=f"{case}: first turn, p50",
            value=median(first),
            unit="ms",
            note=f"later turns {median(later):.1f} ms",
        )
    if devices == 100:
        yield Row(part="loop", case=f"lag p50, 100 scripted devices, {vad} VAD", value=result.server["lag_p50_ms"], unit="ms")
        yield Row(part="loop", case=f"lag p99, 100 scripted devices, {vad} VAD", value=result.server["lag_p99_ms"], unit="ms")
        generator = f"the devices' own loop: p99 {result.generator_lag_p99_ms:.1f} ms, {result.late_frames} packets late"
        yield Row(
            part="loop", case=f"lag max, 100 scripted devices, {vad} VAD", value=result.server["lag_max_ms"], unit="ms", note=generator
        )


def _pacing(options: Options) -> Iterator[Row]:
    for devices in (5,) if options.quick else (20, 100):
        plan = Plan(ota_url="", recording=str(RECORDING), devices=devices, pause_s=0.5, seconds=40)
        result = scripted_run(options, vad="energy", sentences=4, sentence_s=2.5, plan=plan)
        case = f"{devices} answers of 10 s at once"
        gaps, pace = result.all_of("gaps_ms"), [abs(late) for late in result.all_of("pace_ms")]
        underruns = sum(turn["underruns"] for turn in result.turns)
        lags = f"loop's lag p99 {result.server['lag_p99_ms']:.1f} ms, that of the devices' process {result.generator_lag_p99_ms:.1f} ms"
        late = f"max {max(pace):.0f} ms; {lags}"
        yield Row(part="pacing", case=f"{case}: gap between packets p50", value=median(gaps), unit="ms", note="60 ms wanted")
        yield Row(part="pacing", case=f"{case}: gap p99", value=percentile(gaps, 99), unit="ms", note=f"max {max(gaps):.0f} ms")
        yield Row(part="pacing", case=f"{case}: pace error p99", value=percentile(pace, 99), unit="ms", note=late)
        yield Row(part="pacing", case=f"{case}: underruns", value=underruns, unit="", at_most=0, note=f"{len(result.turns)} answers")
