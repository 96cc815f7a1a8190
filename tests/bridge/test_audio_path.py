"""A closed UDP path: the rule alone, then in a session on a virtual clock."""

from __future__ import annotations

import asyncio

from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from bridge.audio_path import AudioPath, PathState
from mqtt_control.messages import Abort
from tests.bridge.house import Inhabitant, house, settle
from tests.virtual_time import run


def test_silence_of_a_listening_device_is_told_once() -> None:
    path = AudioPath()
    assert path.state(None) is PathState.UNKNOWN
    assert path.listens(10.0) == 13.0
    assert not path.look(12.9, None)
    assert path.look(13.0, None)
    assert path.state(None) is PathState.CLOSED
    path.listens(20.0)
    assert not path.look(23.0, None)
    assert path.state(24.0) is PathState.OPEN


def test_a_device_that_rests_may_be_silent() -> None:
    path = AudioPath()
    path.listens(10.0)
    path.rests()
    assert not path.look(13.0, None)
    assert path.state(None) is PathState.UNKNOWN


def test_a_path_may_close_later() -> None:
    path = AudioPath()
    path.listens(10.0)
    assert not path.look(13.0, 10.2)
    assert path.state(10.2) is PathState.OPEN
    path.listens(60.0)
    assert path.look(63.0, 40.0)
    assert path.state(40.0) is PathState.CLOSED


def test_the_user_is_told_that_nothing_arrives() -> None:
    async def scenario() -> None:
        async with house() as home:
            device = Inhabitant(home)
            device.connect()
            grant = device.hello()
            device.listen()
            with capture_logs() as logs:
                await asyncio.sleep(2.9)
                assert device.alerts == []
                await asyncio.sleep(0.2)
                assert [alert.session_id for alert in device.alerts] == [grant.session_id]
                device.listen()
                await asyncio.sleep(10)
            warnings = [entry for entry in logs if entry["log_level"] == "warning"]
            assert [entry["event"] for entry in warnings] == ["the device listens, but no audio of it arrives"]
            assert warnings[0]["told_to_send_to"] == f"127.0.0.1:{device.udp.port}"
            assert "firewall" in warnings[0]["likely_cause"]
            assert len(device.alerts) == 1
            assert device.session.audio_path is PathState.CLOSED
            assert b"xiaozhi_audio_paths_closed_total 1.0" in home.metrics.exposition()
            device.audio()
            device.audio()
            device.audio()
            assert str(device.session.audio_path) == "open"

    run(scenario())


def test_noise_from_a_wrong_key_has_another_cause() -> None:
    async def scenario() -> None:
        async with house() as home:
            device = Inhabitant(home)
            device.connect()
            device.hello()
            device.listen()
            header = bytes.fromhex(device.udp.nonce)
            with capture_logs() as logs:
                for sequence in range(1, 40):
                    datagram = header[:2] + (80).to_bytes(2, "big") + header[4:12] + sequence.to_bytes(4, "big") + bytes(range(80))
                    home.audio.datagram_received(datagram, device.address)
                await asyncio.sleep(3.1)
            (warning,) = [entry for entry in logs if entry["event"].startswith("the device listens")]
            assert "key" in warning["likely_cause"]
            assert warning["undecipherable_packets"] > 20

    run(scenario())


def test_no_alarm_where_silence_is_right() -> None:
    async def scenario() -> None:
        async with house() as home:
            heard, pressed, aborted, hung_up, spoken_to = (Inhabitant(home, number) for number in range(1, 6))
            for device in (heard, pressed, aborted, hung_up, spoken_to):
                device.connect()
                device.hello()
            await settle()
            heard.listen()
            pressed.listen(mode="manual")
            aborted.listen()
            hung_up.listen()
            spoken_to.listen()
            await asyncio.sleep(0.1)
            for _ in range(3):
                heard.audio()
            pressed.listen("stop", mode="manual")
            assert aborted.grant is not None
            aborted.tell(Abort(session_id=aborted.grant.session_id))
            hung_up.session.end("test", goodbye=False)
            spoken_to.session.announce("A timer is over.")
            await asyncio.sleep(4)
            for device in (heard, pressed, aborted, hung_up, spoken_to):
                assert device.alerts == [], device.identity
            ended = next(one for one in home.registry.devices if one.identity == hung_up.identity)
            assert (ended.session, ended.audio_path) == (None, PathState.UNKNOWN)

    run(scenario())


def test_every_line_about_a_message_names_device_and_session() -> None:
    async def scenario() -> None:
        async with house() as home:
            device = Inhabitant(home)
            device.connect()
            grant = device.hello()
            with capture_logs(processors=[merge_contextvars]) as logs:
                device.listen()
                await asyncio.sleep(0.1)
            (line,) = [entry for entry in logs if entry["event"] == "dialogue"]
            assert (line["device"], line["session"]) == (device.identity.device_id, grant.session_id[:8])

    run(scenario())
