"""The simulated device with its user: the API with which people, tests and benches hold conversations."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Final

from bridge.device.dialogue import Event, Mode, State
from bridge.device.errors import DeviceError, NoAnswerError, NoAudioError
from bridge.device.events import Event as Heard
from bridge.device.events import Message, Predicate, is_message
from bridge.device.firmware import Firmware
from bridge.device.microphone import Said
from bridge.device.speech import Speech, Utterance, load_speech
from bridge.device.turn_record import TurnCounters, TurnRecord, read_events

_DRAIN_SLACK_S: Final = 10.0
_TICK_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters at the beginning of a turn, to be subtracted at its end."""

    mark: int
    counters: TurnCounters


class Device(Firmware):
    """One device, from power on to power off::

        async with Device(DeviceOptions(ota_url="http://127.0.0.1:8003/xiaozhi/ota/")) as device:
            await device.boot()
            turn = await device.converse(Path("question.wav"))

    All tasks belong to the context; leaving it ends MQTT with DISCONNECT, but says no goodbye. Methods may be
    called from one task at a time, except that ``abort``, ``wait_for`` and the like may run beside ``converse`` or ``say``.
    A cancelled method leaves the device running; a job that has begun in the main task ends by itself.
    """

    # -- what a person or a test does ------------------------------------------------------------------------------------
    async def open_channel(self) -> None:
        """Say hello and open the UDP socket, unless open. Raises :class:`HelloError` or :class:`MqttError`; the device is idle then."""
        await self._in_main(self._open_channel)

    async def start_listening(self, mode: Mode | None = None) -> None:
        """Press the button: open the channel if need be, ``listen start``, microphone on."""

        async def press() -> None:
            self.mode = mode or self.mode
            await self._open_channel()
            await self._apply(Event.LISTEN)

        await self._in_main(press)

    async def stop_listening(self) -> None:
        """Release the button (manual mode): ``listen stop``, idle, the channel stays open."""
        await self._in_main(lambda: self._apply(Event.RELEASE))

    async def wake_word(self, text: str = "hello", *, history: Speech | None = None) -> None:
        """Say the wake word. ``history`` is its buffered audio: sent in one burst, before ``listen detect`` and ``listen start``."""

        async def detect() -> None:
            speaking = self.state is not State.IDLE
            await self._open_channel()
            if not speaking:
                for frame in history.frames if history is not None else ():
                    self._transmit(frame)
                self._publish({"session_id": self.session_id, "type": "listen", "state": "detect", "text": text})
            await self._apply(Event.WAKE_WORD)

        await self._in_main(detect)

    async def abort(self, reason: str | None = None) -> None:
        """Interrupt: by button (no reason), or ``wake_word_detected``, after which the device listens at once."""
        await self._in_main(lambda: self._apply(Event.WAKE_WORD if reason == "wake_word_detected" else Event.BUTTON))

    async def goodbye(self) -> None:
        """Hang up: the socket closes first, then the goodbye goes out."""
        await self._in_main(self._hang_up)

    async def send(self, message: Message | str) -> None:
        """Send any message or text, also what no firmware would: for hostile tests. Raises :class:`MqttError` when not connected."""

        async def publish() -> None:
            if isinstance(message, str):
                self._publish_text(message)
            else:
                self._publish(message)

        await self._in_main(publish)

    async def say(self, utterance: Utterance) -> Said:
        """Speak as soon as the microphone is on; returns after the last word. Wait with a time-out where it may stay off."""
        return await self.microphone.say(await self._load(utterance))

    async def converse(self, utterance: Utterance, *, timeout_s: float = 30.0) -> TurnRecord:
        """One turn: listen, say it, hear the answer to its end, return to rest.

        Raises :class:`NoAudioError` when the server announced speech that never came, :class:`NoAnswerError` when nothing else
        did; both carry the partial record as ``record``. ``timeout_s`` counts from the end of speech.
        """
        speech = await self._load(utterance)
        self.player.take_heard()
        before = self.snapshot()
        if self.state is State.SPEAKING and self.mode != "realtime":
            await self.wait_for_state(State.LISTENING, State.IDLE, timeout_s=timeout_s)
        if self.state is not State.SPEAKING and not (self.microphone.on and self.channel_open):
            await self.start_listening()
        said = await self.microphone.say(speech)
        if self.mode == "manual":
            await self.stop_listening()
        return await self.await_reply(before, said=said, timeout_s=timeout_s)

    async def await_reply(self, before: Snapshot, *, said: Said | None = None, timeout_s: float = 30.0) -> TurnRecord:
        """The answer that began after ``before``, once it has been played. Raises as :meth:`converse`."""
        deadline = self._loop.time() + timeout_s
        start: Heard | None = None
        failure: DeviceError | None = None
        try:
            start = await self.wait_for(is_message("tts", state="start"), timeout_s=timeout_s, since=before.mark)
            await self.wait_for(is_message("tts", state="stop"), timeout_s=deadline - self._loop.time(), since=start.index)
            await self._settle(_DRAIN_SLACK_S)
        except TimeoutError:
            failure = self._silence_fault(before, started=start is not None, timeout_s=timeout_s)
        record = self.record_since(before, said=said)
        if failure is None and not record.counters.played_packets and self.options.decode:
            failure = NoAudioError(f"The server said that it speaks, but {self._audio_fault(record.counters)}.")
        if failure is not None:
            failure.record = record
            raise failure
        return record

    def snapshot(self) -> Snapshot:
        """Where a turn begins, for :meth:`await_reply` and :meth:`record_since`."""
        channel, player = self.channel_stats, self.player.stats
        counters = TurnCounters(
            uplink_packets=channel.sent,
            downlink_packets=channel.received,
            played_packets=player.played,
            lost_packets=channel.lost,
            underruns=player.underruns,
            underrun_s=player.underrun_s,
            max_depth=0,
            dropped=dict(player.dropped + channel.rejected),
        )
        return Snapshot(self.events.mark(), counters)

    def record_since(self, before: Snapshot, *, said: Said | None = None) -> TurnRecord:
        """What has happened since ``before``, and what was heard; the recording starts again."""
        now, then = asdict(self.snapshot().counters), asdict(before.counters)
        dropped = {reason: count - then["dropped"].get(reason, 0) for reason, count in now.pop("dropped").items()}
        counters = TurnCounters(**{name: value - then[name] for name, value in now.items()})
        counters.dropped = {reason: count for reason, count in dropped.items() if count}
        counters.max_depth = self.player.stats.max_depth
        record = TurnRecord(heard_wav=self.player.take_heard(), counters=counters)
        read_events(record, self.events.since(before.mark))
        stamps = record.stamps
        stamps.speech_end = said.speech_end_s if said is not None else None
        if counters.played_packets and stamps.tts_start is not None:
            stamps.first_audio = self.player.first_played_s
            stamps.playback_end = self.player.playback_end_s
        return record

    async def wait_for(self, predicate: Predicate, timeout_s: float = 10.0, *, since: int | None = None) -> Heard:
        """The first message, from now or from mark ``since``, that matches. Raises TimeoutError."""
        return await self.events.wait_for(predicate, timeout_s=timeout_s, since=since)

    async def wait_for_state(self, *states: State, timeout_s: float = 10.0) -> None:
        """Return when the device is in one of these states. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: self.state in states)

    def drop_websocket(self) -> None:
        """Lose the WebSocket without a closing handshake."""
        if self._link is not None:
            self._link.drop()

    def drop_mqtt(self) -> None:
        """Lose the MQTT connection without DISCONNECT. State and UDP go on; the link comes back after ``reconnect_s``."""
        self.control.drop()

    async def _load(self, utterance: Utterance) -> Speech:
        if isinstance(utterance, Speech):
            return load_speech(utterance, frame_ms=self.profile.frame_ms)
        return await self._loop.run_in_executor(None, lambda: load_speech(utterance, frame_ms=self.profile.frame_ms))

    async def _settle(self, timeout_s: float) -> None:
        """Wait until the answer has been played and the device has left ``speaking`` (and listens again, in auto mode)."""
        async with asyncio.timeout(timeout_s):
            # four sources of change, none of which can be missed for long: polled
            while not self.player.drained or self.state is State.SPEAKING or self._listen_again or not self._jobs.empty():  # noqa: ASYNC110 - see above
                await asyncio.sleep(_TICK_S)

    def _silence_fault(self, before: Snapshot, *, started: bool, timeout_s: float) -> DeviceError:
        """Why there was no answer, as far as the device can know."""
        record = TurnRecord()
        read_events(record, self.events.since(before.mark))
        counters = self.snapshot().counters
        counters.played_packets -= before.counters.played_packets
        counters.downlink_packets -= before.counters.downlink_packets
        if started and not counters.played_packets:
            return NoAudioError(f"The server said that it speaks, but {self._audio_fault(counters)}.")
        if started:
            return NoAnswerError(f"The server spoke, but did not end its answer within {timeout_s:g} s.")
        return NoAnswerError(self._unanswered(before, understood=bool(record.stt), timeout_s=timeout_s))

    def _unanswered(self, before: Snapshot, *, understood: bool, timeout_s: float) -> str:
        """The sentence for a turn in which the server did not begin to speak."""
        if understood:
            return f"The server understood the words, but did not answer within {timeout_s:g} s: look at its language model."
        if any(is_message("goodbye")(event.message) for event in self.events.since(before.mark)):
            return "The server said goodbye instead of an answer."
        if self.websocket is not None:
            lost = "The WebSocket was closed during the turn." if self._link is None else "The server found no speech in the audio."
            return f"Nothing was understood within {timeout_s:g} s. {lost}"
        if self.channel_stats.socket_errors:
            return f"Nothing was understood: {self._udp_address()} refuses UDP ({self.channel_stats.last_socket_error})."
        if self._control is not None and not self._control.connected.is_set():
            return "The MQTT connection was lost during the turn and did not come back in time."
        return (
            f"Nothing was understood within {timeout_s:g} s: either UDP packets to {self._udp_address()} do not arrive "
            "(firewall, wrong advertised address) or the server found no speech in them."
        )

    def _audio_fault(self, counters: TurnCounters) -> str:
        if not counters.downlink_packets and self.websocket is not None:
            return "no audio came over the WebSocket"
        if not counters.downlink_packets:
            return f"no UDP packet came back from {self._udp_address()}: its address is not the one advertised, or a firewall drops UDP"
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(counters.dropped.items()))
        return f"none of its {counters.downlink_packets} UDP packets could be played ({reasons or 'none accepted'})"

    def _udp_address(self) -> str:
        return f"{self.grant.server}:{self.grant.port}" if self.grant is not None else "the UDP port"
