"""JSON-RPC towards a device: what is sent, and what is believed of what comes back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iot.jsonrpc import LAST_ID, Answer, Failure, RpcClient, TableFullError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)


def test_check_078_ids_are_numbers_and_params_always_an_object() -> None:
    rpc = RpcClient()
    number, payload = rpc.request("tools/list")
    assert payload == {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    assert type(payload["id"]) is int
    assert rpc.request("tools/list", {"cursor": ""})[1]["params"] == {"cursor": ""}
    assert RpcClient.notification("notifications/initialized") == {"jsonrpc": "2.0", "method": "notifications/initialized", "params": {}}
    assert number == 1


def test_ids_stay_within_int32_and_skip_those_that_wait() -> None:
    rpc = RpcClient(first_id=LAST_ID)
    assert [rpc.request("a")[0], rpc.request("b")[0]] == [2147483647, 1]
    again = RpcClient(first_id=LAST_ID)
    first, _ = again.request("a")
    again._next_id = LAST_ID
    assert first == LAST_ID
    assert again.request("b")[0] == 1


def test_the_table_is_bounded() -> None:
    rpc = RpcClient(max_pending=2)
    first, _ = rpc.request("a")
    rpc.request("a")
    with pytest.raises(TableFullError):
        rpc.request("a")
    rpc.abandon(first)
    rpc.request("a")
    assert rpc.pending == 2


def test_answers_are_matched_once() -> None:
    rpc = RpcClient()
    number, _ = rpc.request("a")
    answer = {"jsonrpc": "2.0", "id": number, "result": {"content": []}}
    assert rpc.feed(answer) == Answer(number, {"content": []})
    assert rpc.feed(answer) is None
    assert (rpc.stats.answers, rpc.stats.late) == (1, 1)


def test_check_081_an_error_without_a_code_is_an_error() -> None:
    rpc = RpcClient()
    rpc.request("a")
    assert rpc.feed({"jsonrpc": "2.0", "id": 1, "error": {"message": "Unknown tool: x"}}) == Failure(1, "Unknown tool: x", None)
    rpc.request("a")
    assert rpc.feed({"id": 2.0, "error": {"code": -32601, "message": "no"}}) == Failure(2, "no", -32601)
    rpc.request("a")
    failure = rpc.feed({"id": 3, "error": {"message": "a\x00b" + "x" * 1000}})
    assert isinstance(failure, Failure)
    assert failure.message.startswith("a b")
    assert len(failure.message) == 300


def test_check_085_late_and_unknown_ids_are_ignored() -> None:
    rpc = RpcClient()
    number, _ = rpc.request("a")
    rpc.abandon(number)
    assert rpc.feed({"id": number, "result": 1}) is None
    assert rpc.feed({"id": 99, "result": 1}) is None
    assert rpc.stats.late == 2


@pytest.mark.parametrize(
    "payload", [None, 3, "x", [], {}, {"id": "1", "result": 1}, {"id": True, "result": 1}, {"id": 1.5}, {"id": 1, "method": "x"}]
)
def test_garbage_answers_nobody(payload: Any) -> None:
    rpc = RpcClient()
    rpc.request("a")
    assert rpc.feed(payload) is None
    assert (rpc.pending, rpc.stats.garbage) == (1, 1)


@given(json_values, json_values)
def test_feed_never_raises(payload: Any, inner: Any) -> None:
    rpc = RpcClient()
    rpc.request("a")
    rpc.feed(payload)
    outcome = rpc.feed({"id": 1, "error": payload, "result": inner})
    assert isinstance(outcome, Answer | Failure) or rpc.pending == 0
