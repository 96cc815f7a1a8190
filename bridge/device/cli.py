"""``xiaozhi-bridge device``: talk to a server as a device does, and see what happened and how fast."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape

from bridge.device.device import Device
from bridge.device.dialogue import Mode
from bridge.device.errors import DeviceError, NoAnswerError, SpeechError
from bridge.device.events import Event
from bridge.device.impairment import Impairment
from bridge.device.microphone import LiveSource, SoundcardSource
from bridge.device.options import DeviceOptions
from bridge.device.ota_client import OtaTiming, Transport
from bridge.device.profiles import DEFAULT_PROFILE, PROFILES
from bridge.device.speech import load_speech, write_wav
from bridge.device.turn_record import TurnRecord

MAX_SHOWN_CHARACTERS: Final = 500
MAX_REPLY_S: Final = 600.0
_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class CliOptions:
    """What the command line was given."""

    ota_url: str
    recordings: tuple[Path, ...] = ()
    """WAV files, one turn each, in one conversation."""
    live: bool = False
    """Talk through the machine's microphone; the turns end with Ctrl-C."""
    device_id: str = "02:00:00:00:00:01"
    client_id: str = ""
    """Empty: always the same one for the same device id."""
    mode: Mode = "auto"
    profile: str = DEFAULT_PROFILE
    aec: bool = False
    aead: bool = False
    transport: Transport = "auto"
    websocket_version: int = 0
    """Of the binary messages; 0: as the OTA answer says."""
    reply: Path | None = None
    """Where the answers are written as one 24 kHz WAV file."""
    json_lines: bool = False
    timeout_s: float = 60.0
    """For one answer, from the end of speech."""
    impairment: Impairment | None = None
    ota_timing: OtaTiming = field(default_factory=OtaTiming)


def run(options: CliOptions) -> int:
    """Hold the conversation and return the exit code: 0 when every turn was answered, else that of the error.

    2 OTA, 3 MQTT or WebSocket, 4 hello, 5 no audio came back, 6 no answer, 7 recording or microphone, 130 interrupted.
    """
    if options.profile not in PROFILES:
        Console(stderr=True).print(f"There is no profile {options.profile!r}; known are {', '.join(PROFILES)}.", markup=False)
        return SpeechError.exit_code
    report = _JsonReport() if options.json_lines else _TextReport()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_converse(options, report))
    except KeyboardInterrupt:
        return _INTERRUPTED


async def _converse(options: CliOptions, report: _Report) -> int:
    heard: list[TurnRecord] = []
    try:
        await _turns(options, report, heard)
        code = 0
    except DeviceError as error:
        if error.record is not None:
            _keep(error.record, heard, options)
        report.failed(error)
        code = error.exit_code
    finally:
        if options.reply is not None and heard:
            _write_reply(options.reply, heard, report)
    return code


async def _turns(options: CliOptions, report: _Report, heard: list[TurnRecord]) -> None:
    frame_ms = PROFILES[options.profile].frame_ms
    if not options.recordings and not options.live:
        raise SpeechError("There is nothing to say: name a WAV file, or use the live microphone.")
    sayings = {path: load_speech(path, frame_ms=frame_ms) for path in dict.fromkeys(options.recordings)}  # before anything is connected
    source: LiveSource | None = SoundcardSource(frame_ms=frame_ms) if options.live else None
    async with Device(_device_options(options, report, source)) as device:
        report.step("asking the OTA address", url=options.ota_url)
        await device.boot()
        if device.mqtt is not None:
            report.step("MQTT is connected", endpoint=f"{device.mqtt.host}:{device.mqtt.port}")
        await device.open_channel()
        assert device.grant is not None  # noqa: S101 - open_channel() has set it
        audio = {"udp": f"{device.grant.server}:{device.grant.port}", "encryption": device.grant.encryption}
        if device.websocket is not None:
            audio = {"websocket": device.websocket.url, "version": str(device.websocket.version)}
        report.step("hello was answered", **audio, session=device.session_id)
        for path in options.recordings:
            report.step("speaking", recording=path.name, seconds=round(sayings[path].duration_s, 2))
            record = await device.converse(sayings[path], timeout_s=options.timeout_s)
            _keep(record, heard, options)
            report.turn(record)
        while options.live:
            await _live_turn(device, options, report, heard)
        await device.goodbye()


async def _live_turn(device: Device, options: CliOptions, report: _Report, heard: list[TurnRecord]) -> None:
    before = device.snapshot()
    if not device.microphone.on or not device.channel_open:
        await device.start_listening()
    report.step("listening to the microphone")
    try:
        record = await device.await_reply(before, timeout_s=options.timeout_s)
    except NoAnswerError:
        return  # nobody has said anything: listen on
    _keep(record, heard, options)
    report.turn(record)


def _keep(record: TurnRecord, heard: list[TurnRecord], options: CliOptions) -> None:
    """Keep an answer for the WAV file, as long as the file stays of a reasonable size."""
    kept_s = sum(len(one.heard_wav) for one in heard) / record.sample_rate_hz
    if options.reply is not None and kept_s < MAX_REPLY_S:
        heard.append(record)


def _device_options(options: CliOptions, report: _Report, source: LiveSource | None) -> DeviceOptions:
    return DeviceOptions(
        ota_url=options.ota_url,
        device_id=options.device_id,
        client_id=options.client_id,
        mode=options.mode,
        profile=options.profile,
        aec=options.aec,
        aead=options.aead,
        transport=options.transport,
        websocket_version=options.websocket_version,
        impairment=options.impairment,
        microphone=source,
        ota_timing=options.ota_timing,
        on_activation=report.activation,
        on_event=report.event,
    )


def _write_reply(path: Path, heard: list[TurnRecord], report: _Report) -> None:
    import numpy as np

    samples = np.concatenate([record.heard_wav for record in heard])
    try:
        write_wav(path, samples)
    except OSError as error:
        report.failed(SpeechError(f"The answer could not be written to {path}: {error.strerror}."))
        return
    report.step("the answer was written", path=str(path), seconds=round(len(samples) / heard[0].sample_rate_hz, 2))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop


class _Report:
    """What a run tells. Subclasses decide how."""

    def step(self, what: str, **facts: Any) -> None:
        raise NotImplementedError

    def activation(self, code: str, message: str) -> None:
        raise NotImplementedError

    def event(self, event: Event) -> None:
        raise NotImplementedError

    def turn(self, record: TurnRecord) -> None:
        raise NotImplementedError

    def failed(self, error: DeviceError) -> None:
        raise NotImplementedError


class _TextReport(_Report):
    """For people: the conversation as it happens, then the times."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)

    def step(self, what: str, **facts: Any) -> None:
        shown = "  ".join(f"{name}={value}" for name, value in facts.items())
        self._console.print(f"[dim]{what}  {escape(_clean(shown))}[/dim]")

    def activation(self, code: str, message: str) -> None:
        shown = _clean(message if code in message else f"{message} {code}")
        self._console.print(f"[bold yellow]This device is not bound yet. Code: {escape(_clean(code))}[/]  ({escape(shown)})")

    def event(self, event: Event) -> None:
        message = event.message
        match message.get("type"), message.get("state"):
            case "stt", _:
                self._console.print(f"[bold cyan]you[/]     {escape(_clean(message.get('text')))}")
            case "tts", "sentence_start":
                self._console.print(f"[bold green]answer[/]  {escape(_clean(message.get('text')))}")
            case "llm", _:
                self._console.print(f"[dim]face    {escape(_clean(message.get('emotion')))}[/dim]")
            case "alert", _:
                self._console.print(f"[bold red]alert[/]   {escape(_clean(message.get('message')))}")

    def turn(self, record: TurnRecord) -> None:
        def shown(name: str) -> str:
            seconds = record.stamps.after_speech(name)
            return "-" if seconds is None else f"{seconds * 1000:.0f} ms"

        counters = record.counters
        self._console.print(
            f"[dim]after the last word: understood {shown('stt')}, begins {shown('tts_start')}, audible {shown('first_audio')}; "
            f"{counters.played_packets} packets played, {counters.lost_packets} lost, {counters.underruns} gaps, "
            f"{escape(_clean(counters.dropped or 'none'))} dropped[/dim]"
        )

    def failed(self, error: DeviceError) -> None:
        Console(stderr=True, highlight=False).print(f"[bold red]failed[/]  {escape(_clean(error))}")


class _JsonReport(_Report):
    """For programs: one JSON object a line; ``kind`` is step, activation, event, turn or failed."""

    def step(self, what: str, **facts: Any) -> None:
        self._line("step", {"what": what} | facts)

    def activation(self, code: str, message: str) -> None:
        self._line("activation", {"code": code, "message": message})

    def event(self, event: Event) -> None:
        # hello carries the audio key
        message = {name: value for name, value in event.message.items() if name != "udp"}
        self._line("event", {"at_s": round(event.at_s, 4), "message": message})

    def turn(self, record: TurnRecord) -> None:
        self._line("turn", record.to_json())

    def failed(self, error: DeviceError) -> None:
        partial = {"turn": error.record.to_json()} if error.record is not None else {}
        self._line("failed", {"error": type(error).__name__, "reason": str(error), "exit_code": error.exit_code} | partial)

    def _line(self, kind: str, members: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps({"kind": kind} | members, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def _clean(value: object) -> str:
    """What a peer sent, fit for a terminal: printable, one line, bounded."""
    text = "" if value is None else str(value)
    return "".join(character if character.isprintable() else " " for character in text[:MAX_SHOWN_CHARACTERS])
