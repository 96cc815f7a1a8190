"""The state table is total, and firmware's illegal moves do nothing."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from bridge.device.dialogue import TABLE, Action, Event, Mode, State, step

MODES: tuple[Mode, ...] = get_args(Mode)


@pytest.mark.parametrize("mode", MODES)
def test_every_pair_is_defined(mode: Mode) -> None:
    for state, event in itertools.product(State, Event):
        following, actions = step(state, event, mode)
        if (state, event, mode) not in TABLE:
            assert (following, actions) == (state, ())


@pytest.mark.parametrize("mode", MODES)
def test_connecting_never_speaks(mode: Mode) -> None:
    assert step(State.CONNECTING, Event.TTS_START, mode) == (State.CONNECTING, ())


@pytest.mark.parametrize("mode", MODES)
def test_stop_matters_only_while_speaking(mode: Mode) -> None:
    for state in (State.IDLE, State.CONNECTING, State.LISTENING):
        assert step(state, Event.TTS_STOP, mode) == (state, ())


def test_modes_differ_in_start_and_stop() -> None:
    assert step(State.LISTENING, Event.TTS_START, "auto")[1] == (Action.MICROPHONE_OFF, Action.CLEAR_QUEUE)
    assert step(State.LISTENING, Event.TTS_START, "realtime")[1] == (Action.CLEAR_QUEUE,)
    assert step(State.SPEAKING, Event.TTS_STOP, "auto") == (State.LISTENING, (Action.TRUNCATE, Action.LISTEN_AGAIN))
    assert step(State.SPEAKING, Event.TTS_STOP, "realtime") == (State.LISTENING, (Action.TRUNCATE,))
    assert step(State.SPEAKING, Event.TTS_STOP, "manual") == (State.IDLE, (Action.TRUNCATE,))


def test_the_socket_closes_before_goodbye_is_sent() -> None:
    actions = step(State.LISTENING, Event.CLOSE, "auto")[1]
    assert actions.index(Action.RELEASE_CHANNEL) < actions.index(Action.GOODBYE)
    assert Action.GOODBYE not in step(State.LISTENING, Event.CLOSED, "auto")[1]
