"""Who has the floor: the dialogue of one session as a table.

Pure. ``(state, event) -> (next state, actions)``, where an entry may depend on the listening mode that the device
announced. Every pair is defined, so no order of device messages is an error: what makes no sense does nothing.

``python -m bridge.dialogue`` prints the picture that stands in ``docs/dialogue.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    IDLE = "idle"
    """The channel is open; the microphone is not ours (or the device is about to say `listen start`)."""
    LISTENING = "listening"
    THINKING = "thinking"
    """An utterance is being transcribed or answered; nothing has been said yet."""
    SPEAKING = "speaking"
    """`tts start` has been sent and `tts stop` has not."""


class Mode(StrEnum):
    """How the device listens (its `listen start`)."""

    AUTO = "auto"
    MANUAL = "manual"
    REALTIME = "realtime"


class Event(StrEnum):
    LISTEN_START = "listen start"
    LISTEN_STOP = "listen stop"
    UTTERANCE = "utterance"
    """The ear holds a finished utterance."""
    NOTHING_HEARD = "nothing heard"
    """The utterance had no words, or the turn ended without a sound."""
    SPEAK = "speak"
    """The turn sends `tts start`."""
    SPOKEN = "spoken"
    """Playback has ended and `tts stop` has been sent."""
    BARGE_IN = "barge-in"
    """Sustained speech while the device listens in full duplex."""
    ABORT = "abort"
    ANNOUNCE = "announce"
    """The server has something to say: a timer, a greeting."""


class Action(StrEnum):
    OPEN_EAR = "open ear"
    """Collect a new utterance, with the pre-roll."""
    CLOSE_EAR = "close ear"
    FINISH_UTTERANCE = "finish utterance"
    """Hand over what was collected as soon as stragglers have arrived."""
    START_TURN = "start turn"
    CANCEL_TURN = "cancel turn"
    STOP_PLAYBACK = "stop playback"
    """Tell the device `tts stop` although no turn of ours does."""
    QUEUE = "queue"
    """Keep the announcement for when the floor is free."""


@dataclass(frozen=True, slots=True)
class Move:
    """Where to go and what to do, in this order."""

    state: State
    actions: tuple[Action, ...] = ()


_S, _E, _A, _M = State, Event, Action, Mode
_Cell = Move | Mapping[Mode, Move]


def _by_mode(*, auto: Move, manual: Move, realtime: Move) -> Mapping[Mode, Move]:
    return {_M.AUTO: auto, _M.MANUAL: manual, _M.REALTIME: realtime}


def _stay(state: State) -> Move:
    return Move(state)


_LISTEN_AGAIN = Move(_S.LISTENING, (_A.OPEN_EAR,))
_WAIT = Move(_S.IDLE, (_A.CLOSE_EAR,))
_AFTER_NOTHING = _by_mode(auto=_LISTEN_AGAIN, manual=_WAIT, realtime=_LISTEN_AGAIN)
# After an answer a device in auto mode says `listen start` once it has played its queue; in realtime mode it never stopped listening.
_AFTER_SPEECH = _by_mode(auto=_WAIT, manual=_WAIT, realtime=_LISTEN_AGAIN)
_START_OVER = Move(_S.LISTENING, (_A.CANCEL_TURN, _A.OPEN_EAR))
_CANCEL_AND_LISTEN = Move(_S.LISTENING, (_A.CANCEL_TURN, _A.STOP_PLAYBACK, _A.OPEN_EAR))
_CANCEL_AND_WAIT = Move(_S.IDLE, (_A.CANCEL_TURN, _A.STOP_PLAYBACK, _A.CLOSE_EAR))

TABLE: Mapping[tuple[State, Event], _Cell] = {
    (_S.IDLE, _E.LISTEN_START): _LISTEN_AGAIN,
    (_S.IDLE, _E.LISTEN_STOP): _stay(_S.IDLE),
    (_S.IDLE, _E.UTTERANCE): _stay(_S.IDLE),
    (_S.IDLE, _E.NOTHING_HEARD): _stay(_S.IDLE),
    (_S.IDLE, _E.SPEAK): Move(_S.SPEAKING),
    (_S.IDLE, _E.SPOKEN): _stay(_S.IDLE),
    (_S.IDLE, _E.BARGE_IN): _stay(_S.IDLE),
    (_S.IDLE, _E.ABORT): Move(_S.IDLE, (_A.STOP_PLAYBACK,)),
    (_S.IDLE, _E.ANNOUNCE): Move(_S.THINKING, (_A.START_TURN,)),
    (_S.LISTENING, _E.LISTEN_START): _LISTEN_AGAIN,
    (_S.LISTENING, _E.LISTEN_STOP): Move(_S.THINKING, (_A.FINISH_UTTERANCE,)),
    (_S.LISTENING, _E.UTTERANCE): Move(_S.THINKING, (_A.START_TURN,)),
    (_S.LISTENING, _E.NOTHING_HEARD): _AFTER_NOTHING,
    (_S.LISTENING, _E.SPEAK): Move(_S.SPEAKING),
    (_S.LISTENING, _E.SPOKEN): _stay(_S.LISTENING),
    (_S.LISTENING, _E.BARGE_IN): _stay(_S.LISTENING),
    (_S.LISTENING, _E.ABORT): Move(_S.LISTENING, (_A.STOP_PLAYBACK, _A.OPEN_EAR)),
    (_S.LISTENING, _E.ANNOUNCE): Move(_S.THINKING, (_A.CLOSE_EAR, _A.START_TURN)),
    (_S.THINKING, _E.LISTEN_START): _START_OVER,
    (_S.THINKING, _E.LISTEN_STOP): _stay(_S.THINKING),
    (_S.THINKING, _E.UTTERANCE): Move(_S.THINKING, (_A.CANCEL_TURN, _A.START_TURN)),
    (_S.THINKING, _E.NOTHING_HEARD): _AFTER_NOTHING,
    (_S.THINKING, _E.SPEAK): Move(_S.SPEAKING),
    (_S.THINKING, _E.SPOKEN): _AFTER_SPEECH,
    (_S.THINKING, _E.BARGE_IN): _stay(_S.THINKING),
    (_S.THINKING, _E.ABORT): _by_mode(auto=_CANCEL_AND_LISTEN, manual=_CANCEL_AND_WAIT, realtime=_CANCEL_AND_LISTEN),
    (_S.THINKING, _E.ANNOUNCE): Move(_S.THINKING, (_A.QUEUE,)),
    (_S.SPEAKING, _E.LISTEN_START): _START_OVER,
    (_S.SPEAKING, _E.LISTEN_STOP): _stay(_S.SPEAKING),
    # A short sound while we speak ("mm") is not a turn; sustained speech has come as a barge-in before.
    (_S.SPEAKING, _E.UTTERANCE): _stay(_S.SPEAKING),
    (_S.SPEAKING, _E.NOTHING_HEARD): _AFTER_SPEECH,
    (_S.SPEAKING, _E.SPEAK): _stay(_S.SPEAKING),
    (_S.SPEAKING, _E.SPOKEN): _AFTER_SPEECH,
    (_S.SPEAKING, _E.BARGE_IN): _by_mode(
        auto=_stay(_S.SPEAKING), manual=_stay(_S.SPEAKING), realtime=Move(_S.LISTENING, (_A.CANCEL_TURN,))
    ),
    (_S.SPEAKING, _E.ABORT): _by_mode(auto=_CANCEL_AND_WAIT, manual=_CANCEL_AND_WAIT, realtime=_CANCEL_AND_LISTEN),
    (_S.SPEAKING, _E.ANNOUNCE): Move(_S.SPEAKING, (_A.QUEUE,)),
}


def move(state: State, event: Event, mode: Mode) -> Move:
    """The table's entry. Total: every state, event and mode has one."""
    cell = TABLE[state, event]
    return cell if isinstance(cell, Move) else cell[mode]


def diagram() -> str:
    """The table as a Mermaid state diagram, without the entries that change nothing."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.IDLE}"]
    for (state, event), cell in TABLE.items():
        moves = {"": cell} if isinstance(cell, Move) else {f" ({mode})": entry for mode, entry in cell.items()}
        for mode, entry in moves.items():
            if entry == Move(state):
                continue
            actions = ", ".join(entry.actions)
            lines.append(f"    {state} --> {entry.state}: {event}{mode}{' / ' + actions if actions else ''}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())  # noqa: T201 - this is the command's output
