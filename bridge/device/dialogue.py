"""The device's state machine (pure): a table from (state, event, mode) to the next state and what to do on the way.

A pair that is not in the table leaves the state alone and does nothing: that is how firmware treats an illegal move.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

Mode: TypeAlias = Literal["auto", "manual", "realtime"]


class State(StrEnum):
    IDLE = "idle"
    CONNECTING = "connecting"
    LISTENING = "listening"
    SPEAKING = "speaking"


class Event(StrEnum):
    CONNECT = "connect"
    """A channel is wanted: hello goes out."""
    OPENED = "opened"
    FAILED = "failed"
    LISTEN = "listen"
    """Button press, or the end of opening."""
    RELEASE = "release"
    """Push-to-talk released."""
    BUTTON = "button"
    """Abort by button while speaking."""
    WAKE_WORD = "wake_word"
    TTS_START = "tts_start"
    TTS_STOP = "tts_stop"
    CLOSE = "close"
    """The device hangs up."""
    CLOSED = "closed"
    """The server hung up, or the connection failed."""


class Action(StrEnum):
    LISTEN_START = "listen_start"
    """Send ``listen start`` and switch the microphone on."""
    LISTEN_AGAIN = "listen_again"
    """The same once playback has drained."""
    LISTEN_STOP = "listen_stop"
    ABORT = "abort"
    ABORT_WAKE_WORD = "abort_wake_word"
    MICROPHONE_OFF = "microphone_off"
    CLEAR_QUEUE = "clear_queue"
    TRUNCATE = "truncate"
    """Throw queued audio away on firmware that does so at ``tts stop``."""
    GOODBYE = "goodbye"
    RELEASE_CHANNEL = "release_channel"


Step: TypeAlias = tuple[State, tuple[Action, ...]]
_MODES: Final[tuple[Mode, ...]] = ("auto", "manual", "realtime")


def _build() -> dict[tuple[State, Event, Mode], Step]:
    table: dict[tuple[State, Event, Mode], Step] = {}
    idle, connecting, listening, speaking = State.IDLE, State.CONNECTING, State.LISTENING, State.SPEAKING
    for mode in _MODES:
        full_duplex = mode == "realtime"
        quiet: tuple[Action, ...] = () if full_duplex else (Action.MICROPHONE_OFF,)
        table[idle, Event.CONNECT, mode] = (connecting, ())
        table[connecting, Event.OPENED, mode] = (idle, ())
        table[connecting, Event.FAILED, mode] = (idle, (Action.RELEASE_CHANNEL,))
        table[idle, Event.LISTEN, mode] = (listening, (Action.LISTEN_START,))
        table[listening, Event.LISTEN, mode] = (listening, (Action.LISTEN_START,))
        table[speaking, Event.LISTEN, mode] = (listening, (Action.ABORT, Action.LISTEN_START))
        table[listening, Event.RELEASE, mode] = (idle, (Action.LISTEN_STOP, Action.MICROPHONE_OFF))
        table[speaking, Event.BUTTON, mode] = (speaking, (Action.ABORT,))
        table[idle, Event.WAKE_WORD, mode] = (listening, (Action.LISTEN_START,))
        table[listening, Event.WAKE_WORD, mode] = (listening, (Action.ABORT_WAKE_WORD, Action.LISTEN_START))
        table[speaking, Event.WAKE_WORD, mode] = (listening, (Action.ABORT_WAKE_WORD, Action.LISTEN_START))
        for state in (idle, listening):
            table[state, Event.TTS_START, mode] = (speaking, (*quiet, Action.CLEAR_QUEUE))
        table[speaking, Event.TTS_STOP, mode] = (
            (idle, (Action.TRUNCATE,)) if mode == "manual" else (listening, (Action.TRUNCATE, Action.LISTEN_AGAIN))
        )
        for state in (idle, connecting, listening, speaking):
            hang_up = (Action.MICROPHONE_OFF, Action.RELEASE_CHANNEL)
            table[state, Event.CLOSED, mode] = (idle, hang_up)
            table[state, Event.CLOSE, mode] = (idle, (Action.MICROPHONE_OFF, Action.RELEASE_CHANNEL, Action.GOODBYE))
    # Full duplex: the microphone has been on all along, so nothing is announced a second time.
    table[speaking, Event.TTS_STOP, "realtime"] = (listening, (Action.TRUNCATE,))
    return table


TABLE: Final = MappingProxyType(_build())


def step(state: State, event: Event, mode: Mode) -> Step:
    """The next state and the actions, in order."""
    return TABLE.get((state, event, mode), (state, ()))
