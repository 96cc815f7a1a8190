"""The mouth of a session, as one turn uses it: control messages and audio to the device.

Each turn gets its own, and the session shuts it when the turn is cancelled: `tts stop` goes out at once, whatever the
turn's stages are doing, and what they still say afterwards reaches nobody.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from bridge.emotions import known
from bridge.transport import AudioLink
from mqtt_control.messages import Alert, LlmEmotion, Outbound, Stt, TtsSentenceStart, TtsStart, TtsStop
from udp_audio.errors import ChannelClosed


class Mouth:
    """Implements :class:`bridge.turn.TurnOutput`. ``next_timestamp_ms`` is the playback time of the next frame."""

    def __init__(
        self,
        *,
        session_id: str,
        send: Callable[[Outbound], bool],
        channel: AudioLink,
        next_timestamp_ms: Callable[[], int],
        on_start: Callable[[], None],
    ) -> None:
        self._session_id = session_id
        self._send = send
        self._channel = channel
        self._next_timestamp_ms = next_timestamp_ms
        self._on_start = on_start
        self._speaking = False
        self._shut = False
        self._emotion = ""

    def shut(self) -> bool:
        """Say nothing more; True when a `tts stop` had to be sent for it."""
        was_speaking = self._speaking
        self.speech_stops()
        self._shut = True
        return was_speaking

    def mute(self) -> None:
        """Say nothing more, not even `tts stop`: the device is gone or in another session."""
        self._speaking, self._shut = False, True

    def heard(self, text: str) -> None:
        if not self._shut:
            self._send(Stt(session_id=self._session_id, text=text))

    def emotion(self, name: str) -> None:
        name = known(name)
        if not self._shut and name != self._emotion:
            self._emotion = name
            self._send(LlmEmotion(session_id=self._session_id, emotion=name))

    def speech_starts(self) -> None:
        if not self._shut and not self._speaking:
            self._speaking = True
            self._send(TtsStart(session_id=self._session_id))
            self._on_start()

    def sentence(self, text: str) -> None:
        if not self._shut:
            self._send(TtsSentenceStart(session_id=self._session_id, text=text))

    def audio(self, packet: bytes) -> None:
        if self._shut:
            return
        try:
            self._channel.send(packet, timestamp_ms=self._next_timestamp_ms())
        except ChannelClosed:
            self.mute()

    def speech_stops(self) -> None:
        if self._speaking:
            self._speaking = False
            self._channel.discard_unsent()
            self._send(TtsStop(session_id=self._session_id))

    def alert(self, text: str) -> None:
        if not self._shut:
            self._send(Alert(session_id=self._session_id, status="XiaoZhi bridge", message=text, emotion="sad"))

    async def address_known(self) -> None:
        with contextlib.suppress(ChannelClosed):
            await self._channel.reachable()
