"""What the model is told of earlier turns."""

from __future__ import annotations

from bridge.history import INTERRUPTED, History, repaired
from providers.base import Message, ToolCall

CALL = ToolCall("c1", "set_volume", {"volume": 3})


def test_only_what_was_heard_is_kept() -> None:
    history = History(turns=3)
    history.add(user="Tell me a story.", heard=["Once upon a time."], interrupted=True)
    assert [message.content for message in history.messages()] == ["Tell me a story.", f"Once upon a time. {INTERRUPTED}"]


def test_old_turns_go() -> None:
    history = History(turns=2)
    for number in range(5):
        history.add(user=f"question {number}", heard=["yes"])
    assert [message.content for message in history.messages()] == ["question 3", "yes", "question 4", "yes"]


def test_zero_turns_keep_nothing() -> None:
    history = History(turns=0)
    history.add(user="hello", heard=["hi"])
    assert history.messages() == []


def test_a_call_without_result_gets_one() -> None:
    messages = repaired([Message("assistant", "", tool_calls=(CALL,))])
    assert [message.role for message in messages] == ["assistant", "tool"]
    assert messages[1].tool_call_id == "c1"


def test_a_result_without_its_call_goes() -> None:
    assert repaired([Message("tool", "ok", tool_call_id="c9")]) == []


def test_an_unheard_announcement_leaves_no_trace() -> None:
    history = History(turns=2)
    history.add(user="", heard=[])
    assert len(history) == 0


def test_a_model_of_few_languages_is_shown_no_others() -> None:
    history = History(turns=4)
    history.add(user="hello", heard=["Hi."], language="en-US")
    history.add(user="你好", heard=["你好。"], language="zh")
    history.add(user="", heard=["Time is up."])
    assert [message.content for message in history.messages(languages={"en"})] == ["hello", "Hi.", "Time is up."]
    assert len(history.messages()) == 5
