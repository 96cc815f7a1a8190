"""What stands in the log, and what never does."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from bridge import logs
from settings.model import Log

Lines = Callable[[], list[dict[str, Any]]]


def configured(**options: Any) -> Lines:
    """Set logging up as JSON; the result reads what was written so far."""
    stream = io.StringIO()
    logs.configure(Log(**{"format": "json", **options}), stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


log = structlog.get_logger("bridge.turn")


def test_a_line_has_time_level_logger_sentence_and_facts() -> None:
    lines = configured()
    log.info("Turn finished", took_ms=812, path=Path("/x"), ratio=0.5, ok=True, nothing=None)
    (line,) = lines()
    assert list(line)[:4] == ["timestamp", "level", "logger", "event"]
    assert line["timestamp"].endswith("Z")
    assert {k: line[k] for k in line if k != "timestamp"} == {
        "level": "info",
        "logger": "bridge.turn",
        "event": "Turn finished",
        "took_ms": 812,
        "path": "/x",
        "ratio": 0.5,
        "ok": True,
        "nothing": None,
    }


def test_other_libraries_join_with_context() -> None:
    lines = configured()
    with logs.bound(device="aa:bb", session="s1", turn=3):
        logging.getLogger("some.library").warning("took %d ms", 5)
        log.info("ours")
    logging.getLogger("aiomqtt").info("afterwards")
    foreign, ours, after = lines()
    assert (foreign["event"], foreign["logger"], foreign["device"], foreign["turn"]) == ("took 5 ms", "some.library", "aa:bb", 3)
    assert (ours["session"], ours["device"]) == ("s1", "aa:bb")
    assert "device" not in after


async def test_tasks_inherit_the_context_and_do_not_share_it() -> None:
    lines = configured()

    async def turn(number: int) -> None:
        with logs.bound(turn=number):
            await asyncio.sleep(0)
            log.info("turn")

    with logs.bound(device="d"):
        async with asyncio.TaskGroup() as group:
            group.create_task(turn(1))
            group.create_task(turn(2))
    assert [(line["device"], line["turn"]) for line in lines()] == [("d", 1), ("d", 2)]


def test_levels() -> None:
    lines = configured(level="warning")
    log.info("no")
    log.warning("yes")
    logging.getLogger("httpx").info("no")
    assert [line["event"] for line in lines()] == ["yes"]
    lines = configured(level="info")
    logging.getLogger("httpx").info("no")
    logging.getLogger("httpx").warning("yes")
    assert [line["event"] for line in lines()] == ["yes"]
    lines = configured(level="debug")
    logging.getLogger("httpx").debug("heard now")
    log.debug("and ours")
    assert len(lines()) == 2


def test_secrets_are_masked_wherever_they_stand() -> None:
    stream = io.StringIO()
    logs.configure(Log(format="json"), stream=stream)
    secret = "0123456789abcdefSECRET"
    log.info(
        "connecting to mqtt://user:%s@host with Authorization: Bearer %s",
        secret,
        secret,
        api_key=secret,
        key=secret,
        nonce=123456,
        password=secret,
        headers={"Authorization": f"Bearer {secret}", "deep": [{"client_secret": secret}]},
        url=f"http://me:{secret}@host/v1?token={secret}&x=1",
        error=ValueError(f"password={secret}"),
        raw=secret.encode(),
    )
    assert secret not in stream.getvalue()
    line = json.loads(stream.getvalue())
    assert line["nonce"] == logs.MASK
    assert line["raw"] == "<22 bytes>"
    assert line["url"].endswith(f"token={logs.MASK}&x=1")


def test_transcripts_are_removed_unless_asked_for() -> None:
    facts: dict[str, Any] = {"text": "my diary", "heard": "my diary", "said": "my diary", "nested": {"text": "my diary", "n": 1}}
    lines = configured()
    log.info("Turn", **facts)
    assert "diary" not in str(lines())
    assert lines()[0]["nested"] == {"n": 1}
    lines = configured(transcripts=True)
    log.info("Turn", **facts)
    assert lines()[0]["heard"] == "my diary"


def test_what_a_peer_sent_cannot_forge_lines_or_drown_the_log() -> None:
    lines = configured()
    log.info("Bad hello", reason="x\n{}\x1b[2J\u202e" + "y" * 5000, **{"k\ney": [0] * 500})
    (line,) = lines()
    assert len(line["reason"]) == logs.LONGEST_VALUE
    assert line["reason"].isprintable()
    assert len(line["k?ey"]) == 50


def test_errors_come_as_a_sentence_and_with_a_traceback_only_when_asked_for() -> None:
    lines = configured()
    _fail_and_log()
    (line,) = lines()
    assert (line["level"], line["error"]) == ("error", "ZeroDivisionError: division by zero")
    assert "Traceback" not in str(line)
    lines = configured(tracebacks=True)
    _fail_and_log()
    assert lines()[0]["exception"].startswith("Traceback")
    assert "_fail_and_log" in lines()[0]["exception"]


def _fail_and_log() -> None:
    try:
        1 / 0  # noqa: B018 - the exception is the point
    except ZeroDivisionError:
        log.exception("Turn failed")


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_a_value_that_cannot_be_shown_does_not_raise() -> None:
    stream = io.StringIO()
    logs.configure(Log(format="json"), stream=stream)
    log.info("odd", value=Unspeakable())
    assert stream.getvalue() == "A log line of bridge.turn could not be written: RuntimeError\n"


def test_arguments_that_do_not_fit_are_shown_beside_the_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own would raise here
    lines = configured()
    logging.getLogger("x").warning("%d devices", "many")
    log.info("%s and %s", "one", "two")
    log.info("100 % sure", x=1)
    assert [line["event"] for line in lines()] == ["%d devices", "one and two", "100 % sure"]
    assert lines()[0]["arguments"] == ["many"]


@given(
    st.dictionaries(
        st.text().filter(lambda name: not name.startswith("_")),
        st.recursive(st.none() | st.integers() | st.floats() | st.text() | st.binary(), st.lists),
        max_size=5,
    )
)
def test_any_facts_give_one_json_line(facts: dict[str, Any]) -> None:
    event = {"event": "x", **facts}
    safe = logs.redaction(transcripts=True)(None, "info", dict(event))
    assert isinstance(safe, dict)
    line = json.dumps(safe, allow_nan=False)
    line.encode()
    assert len(line.splitlines()) == 1


def test_a_closed_stream_does_not_stop_anything() -> None:
    stream = io.StringIO()
    logs.configure(Log(format="json"), stream=stream)
    stream.close()
    log.info("into the void")


def test_the_file_is_json_and_rotates(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "bridge.log"
    logs.configure(Log(format="console", file=file, file_max_bytes=10_000, file_backups=1), stream=io.StringIO())
    for number in range(200):
        log.info("line", number=number, filling="x" * 100)
    assert sorted(path.name for path in file.parent.iterdir()) == ["bridge.log", "bridge.log.1"]
    assert json.loads(file.read_text(encoding="utf-8").splitlines()[-1])["number"] == 199


def test_the_console_is_for_people() -> None:
    stream = io.StringIO()
    logs.configure(Log(format="console"), stream=stream)
    log.info("Device connected", device="aa:bb", token="t")
    assert "Device connected" in stream.getvalue()
    assert "device=aa:bb" in stream.getvalue()
    assert f"token={logs.MASK}" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()  # no colours into a pipe


def test_auto_is_json_when_nobody_watches() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    pipe, terminal = io.StringIO(), Terminal()
    logs.configure(Log(), stream=pipe)
    log.info("x")
    logs.configure(Log(), stream=terminal)
    log.info("x")
    assert json.loads(pipe.getvalue())["event"] == "x"
    assert "\x1b[" in terminal.getvalue()


def test_configuring_again_replaces_and_warnings_are_lines() -> None:
    first = configured()
    lines = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old thing", UserWarning, stacklevel=1)
    assert first() == []
    assert [line["logger"] for line in lines()] == ["py.warnings"]
