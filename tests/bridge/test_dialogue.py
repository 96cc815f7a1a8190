"""The dialogue table."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from bridge.dialogue import TABLE, Action, Event, Mode, State, diagram, move

ALL = list(product(State, Event, Mode))


@pytest.mark.parametrize(("state", "event", "mode"), ALL)
def test_every_order_of_events_is_defined(state: State, event: Event, mode: Mode) -> None:
    step = move(state, event, mode)
    assert step.state in State
    assert len(set(step.actions)) == len(step.actions)


def test_the_table_is_complete_and_holds_nothing_else() -> None:
    assert set(TABLE) == set(product(State, Event))


@pytest.mark.parametrize(("state", "mode"), list(product(State, Mode)))
def test_every_abort_is_answered_with_a_stop(state: State, mode: Mode) -> None:
    """A device that aborts by button stays in `speaking` until `tts stop`."""
    assert Action.STOP_PLAYBACK in move(state, Event.ABORT, mode).actions


@pytest.mark.parametrize(("state", "event", "mode"), ALL)
def test_a_turn_is_cancelled_before_another_starts(state: State, event: Event, mode: Mode) -> None:
    actions = move(state, event, mode).actions
    if Action.START_TURN in actions and state in {State.THINKING, State.SPEAKING}:
        assert actions.index(Action.CANCEL_TURN) < actions.index(Action.START_TURN)


@pytest.mark.parametrize("event", list(Event))
def test_manual_mode_answers_nothing_before_listen_stop(event: Event) -> None:
    """While the button is held only `listen stop` hands the utterance over."""
    actions = move(State.LISTENING, event, Mode.MANUAL).actions
    assert (Action.FINISH_UTTERANCE in actions) == (event is Event.LISTEN_STOP)


def test_realtime_listens_on_after_an_answer_without_a_new_listen_start() -> None:
    assert move(State.SPEAKING, Event.SPOKEN, Mode.REALTIME).state is State.LISTENING
    assert move(State.SPEAKING, Event.SPOKEN, Mode.AUTO).state is State.IDLE


def test_the_picture_in_the_documentation_is_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "dialogue.md"
    assert diagram() in page.read_text(encoding="utf-8"), "run: python -m bridge.dialogue, and paste it into docs/dialogue.md"
