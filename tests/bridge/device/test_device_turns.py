"""The device against a scripted server: boot, hello, turns in every mode, goodbye, MQTT loss."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bridge.device.codec import Decoder
from bridge.device.device import Device
from bridge.device.dialogue import State
from bridge.device.errors import FirmwareCrashError, HelloError, MqttError, NoAnswerError, NoAudioError, OtaError
from bridge.device.events import is_message
from bridge.device.impairment import Impairment
from bridge.device.options import DeviceOptions
from bridge.device.speech import Speech, encode_speech
from tests.bridge.device.gateway import SSRC, Gateway


def tone(seconds: float) -> Speech:
    ramp = np.arange(int(16000 * seconds)) / 16000
    return encode_speech((8000 * np.sin(2 * np.pi * 440 * ramp)).astype(np.int16))


QUESTION = tone(0.48)
ANSWER = tone(0.9)


@pytest.fixture
async def gateway() -> AsyncGenerator[Gateway]:
    async with Gateway() as server:
        yield server


def options(gateway: Gateway, **members: Any) -> DeviceOptions:
    return replace(DeviceOptions(ota_url=gateway.ota_url, warm_up_s=0.0), **members)


class Script:
    """Answers the n-th ``listen start`` after some uplink packets, paced as a server should."""

    def __init__(self, gateway: Gateway, tasks: asyncio.TaskGroup, *, listens: int = 8) -> None:
        self.gateway = gateway
        self.tasks = tasks
        self.listens = listens
        self.begun = False
        self.paced = True
        gateway.on_audio = self.heard

    def heard(self, count: int) -> None:
        if count >= self.listens and not self.begun:
            self.begun = True
            self.tasks.create_task(self.answer())

    async def answer(self) -> None:
        gateway = self.gateway
        gateway.send({"type": "stt", "text": "what time is it", "session_id": gateway.session_id})
        gateway.tts("start")
        gateway.send({"type": "llm", "emotion": "happy", "text": "x"})
        await asyncio.sleep(0.15)
        gateway.tts("sentence_start", text="It is noon.")
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number, frame in enumerate(ANSWER.frames):
            await asyncio.sleep(max(began + (number - 4) * 0.06 - loop.time(), 0) if self.paced else 0)
            gateway.audio(frame)
        await asyncio.sleep(max(began + ANSWER.duration_s + 0.1 - loop.time(), 0))
        gateway.tts("stop")


async def test_boot_and_hello_are_those_of_stock_firmware(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        await device.open_channel()
        assert device.channel_open
        assert device.state is State.IDLE
        line, headers, body = gateway.requests[0]
        assert line == "POST /xiaozhi/ota/ HTTP/1.1"
        assert headers["device-id"] == "02:00:00:00:00:01"
        assert headers["activation-version"] == "1"
        assert headers["user-agent"] == "simulated/2.4.2"
        assert json.loads(body)["application"]["version"] == "2.4.2"
        # protocol name, level 4, flags user+password+clean, keep-alive 240: as captured from hardware
        assert gateway.connects[0].startswith(bytes.fromhex("00044d51545404c200f0"))
        assert gateway.messages[0] == {
            "type": "hello",
            "version": 3,
            "transport": "udp",
            "features": {"mcp": True},
            "audio_params": {"format": "opus", "sample_rate": 16000, "channels": 1, "frame_duration": 60},
        }
        assert 8 not in gateway.packet_types, "stock devices never subscribe"


async def test_auto_turn(gateway: Gateway) -> None:
    async with asyncio.TaskGroup() as tasks, Device(options(gateway)) as device:
        Script(gateway, tasks)
        await device.boot()
        turn = await device.converse(QUESTION, timeout_s=20)
        assert (turn.stt, turn.emotion, turn.sentences) == ("what time is it", "happy", ["It is noon."])
        assert turn.answered
        assert turn.counters.played_packets == len(ANSWER.frames)
        assert len(turn.heard_wav) >= 24000 * ANSWER.duration_s - 1
        assert np.abs(turn.heard_wav.astype(np.int32)).max() > 4000
        stamps = turn.stamps
        assert stamps.speech_end is not None
        assert stamps.stt is not None
        assert stamps.tts_start is not None
        assert stamps.first_audio is not None
        assert stamps.tts_stop is not None
        assert stamps.stt <= stamps.tts_start <= stamps.first_audio <= stamps.tts_stop
        assert device.state is State.LISTENING
        await gateway.until(lambda: len(gateway.sent_by_device("listen", state="start", mode="auto")) == 2)
        for number, (header, opus) in enumerate(gateway.uplink, 1):
            kind, flags, length, ssrc, timestamp, sequence = struct.unpack(">BBHIII", header)
            assert (kind, flags, length, ssrc, timestamp, sequence) == (1, 0, len(opus), SSRC, 0, number)
        decoder = Decoder()
        heard = np.concatenate([decoder.decode(opus) for _, opus in gateway.uplink[: len(QUESTION.frames)]])
        assert np.abs(heard.astype(np.int32)).max() > 4000
        json.dumps(turn.to_json())


async def test_auto_mode_is_silent_while_speaking(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        await device.start_listening()
        await gateway.until(lambda: len(gateway.uplink) > 3)
        gateway.tts("start")
        await device.wait_for_state(State.SPEAKING)
        await asyncio.sleep(0.1)
        count = len(gateway.uplink)
        await asyncio.sleep(0.2)
        assert len(gateway.uplink) == count


async def test_realtime_keeps_the_microphone_on_and_announces_once(gateway: Gateway) -> None:
    async with asyncio.TaskGroup() as tasks, Device(options(gateway, mode="realtime")) as device:
        Script(gateway, tasks)
        await device.boot()
        turn = await device.converse(QUESTION, timeout_s=20)
        assert turn.counters.uplink_packets > len(QUESTION.frames) + 10
        assert device.state is State.LISTENING
        await asyncio.sleep(0.1)
        assert len(gateway.sent_by_device("listen", state="start")) == 1


async def test_manual_turn_ends_idle_with_the_channel_open(gateway: Gateway) -> None:
    async with asyncio.TaskGroup() as tasks, Device(options(gateway, mode="manual")) as device:
        script = Script(gateway, tasks, listens=10**6)
        await device.boot()

        def released(message: dict[str, Any]) -> None:
            if message.get("state") == "stop":
                tasks.create_task(script.answer())

        gateway.on_message = released
        turn = await device.converse(QUESTION, timeout_s=20)
        assert turn.answered
        assert device.state is State.IDLE
        assert device.channel_open
        assert not device.microphone.on


async def test_packets_are_dropped_outside_speaking_and_by_the_clearing_pass(gateway: Gateway) -> None:
    async with Device(options(gateway, main_loop_pass_s=0.2)) as device:
        await device.boot()
        await device.start_listening()
        await gateway.until(lambda: len(gateway.uplink) > 0)
        gateway.audio(ANSWER.frames[0])
        await gateway.until(lambda: device.player.stats.dropped["state"] == 1)
        gateway.tts("start")
        await device.wait_for_state(State.SPEAKING)
        for frame in ANSWER.frames[:6]:
            gateway.audio(frame)
        await gateway.until(lambda: device.player.stats.dropped["cleared"] >= 1)
        assert device.player.stats.played + device.player.stats.dropped["cleared"] == 6


async def test_a_burst_overflows_the_queue_and_the_new_packet_is_lost(gateway: Gateway) -> None:
    async with Device(options(gateway, profile="1.6.2")) as device:
        await device.boot()
        await device.start_listening()
        await gateway.until(lambda: len(gateway.uplink) > 0)
        for _ in range(30):
            gateway.audio(ANSWER.frames[0])
        await gateway.until(lambda: device.player.stats.received == 30)
        # 10 in the queue, 2 decoded, 1 playing; a slow machine may have played a few more
        assert device.player.stats.dropped["queue_full"] in range(8, 18)


async def test_downlink_checks(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        await device.start_listening()
        await gateway.until(lambda: len(gateway.uplink) > 0)
        gateway.tts("start")
        await asyncio.sleep(0.1)
        frame = ANSWER.frames[0]
        gateway.audio(frame, sequence=5)
        gateway.audio(frame, sequence=5)
        gateway.audio(frame, sequence=4)
        gateway.audio(frame, sequence=6, kind=2)
        gateway.audio(frame, sequence=6, length=1)
        gateway.datagram(b"short")
        gateway.audio(b"", sequence=7)
        await gateway.until(lambda: device.channel_stats.received == 7)
        assert device.channel_stats.rejected == {"sequence": 2, "type": 1, "length": 1, "short": 1, "empty": 1}
        assert device.channel_stats.lost == 5  # 1..4 and 6
        assert device.player.stats.queued == 1


async def test_button_abort_stays_in_speaking_until_stop(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        await device.start_listening()
        gateway.tts("start")
        await device.wait_for_state(State.SPEAKING)
        await device.abort()
        await gateway.until(lambda: bool(gateway.sent_by_device("abort")))
        assert gateway.sent_by_device("abort") == [{"session_id": "session-1", "type": "abort"}]
        assert device.state is State.SPEAKING
        gateway.tts("stop")
        await device.wait_for_state(State.LISTENING)


async def test_wake_word_interrupts_and_listens_at_once(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        await device.wake_word("hi there", history=QUESTION)
        await gateway.until(lambda: len(gateway.sent_by_device("listen")) == 2)
        assert [message["state"] for message in gateway.sent_by_device("listen")] == ["detect", "start"]
        assert len(gateway.uplink) >= len(QUESTION.frames)
        gateway.tts("start")
        await device.wait_for_state(State.SPEAKING)
        await device.abort("wake_word_detected")
        await gateway.until(lambda: len(gateway.sent_by_device("listen", state="start")) == 2)
        assert gateway.sent_by_device("abort")[0]["reason"] == "wake_word_detected"
        assert device.state is State.LISTENING


async def test_goodbye_needs_the_session_id_and_is_not_answered(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        await device.start_listening()
        gateway.send({"type": "goodbye"})
        gateway.send({"type": "goodbye", "session_id": "other"})
        await gateway.until(lambda: device.stats.goodbyes_ignored == 2)
        assert device.channel_open
        gateway.send({"type": "goodbye", "session_id": "session-1"})
        await device.wait_for_state(State.IDLE)
        await asyncio.sleep(0.05)
        assert not device.channel_open
        assert not gateway.sent_by_device("goodbye")


async def test_old_firmware_answers_goodbye(gateway: Gateway) -> None:
    async with Device(options(gateway, profile="2.1")) as device:
        await device.boot()
        await device.start_listening()
        gateway.send({"type": "goodbye"})
        await gateway.until(lambda: bool(gateway.sent_by_device("goodbye", session_id="session-1")))
        assert not device.channel_open


async def test_device_goodbye_closes_first(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        await device.start_listening()
        await device.goodbye()
        await device.goodbye()
        await gateway.until(lambda: bool(gateway.sent_by_device("goodbye")))
        assert len(gateway.sent_by_device("goodbye")) == 1
        assert device.state is State.IDLE


async def test_mqtt_loss_keeps_state_and_udp(gateway: Gateway) -> None:
    async with Device(options(gateway, reconnect_s=0.2)) as device:
        await device.boot()
        await device.start_listening()
        for lose in (device.drop_mqtt, gateway.kick):
            lose()
            await gateway.until(lambda: not device.control.connected.is_set())
            count = len(gateway.uplink)
            await gateway.until(lambda count=count: len(gateway.uplink) > count + 1)  # type: ignore[misc]
            assert device.state is State.LISTENING
            await gateway.until(device.control.connected.is_set)
        assert len(gateway.connects) == 3
        assert len(gateway.sent_by_device("hello")) == 1
        gateway.tts("start")
        await device.wait_for_state(State.SPEAKING)


async def test_a_send_without_connection_makes_the_device_idle(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        await device.start_listening()
        device.drop_mqtt()
        with pytest.raises(MqttError):
            await device.stop_listening()
        assert device.state is State.IDLE
        assert not device.channel_open
        await device.open_channel()  # reconnects at once, long before the ten seconds
        assert len(gateway.sent_by_device("hello")) == 2


async def test_rekey_in_an_open_channel(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        await device.start_listening()
        await gateway.until(lambda: len(gateway.uplink) > 2)
        gateway.grant()
        await device.wait_for(is_message("hello"), since=0)
        await gateway.until(lambda: device.session_id == "session-2")
        count = len(gateway.uplink)
        await gateway.until(lambda: len(gateway.uplink) > count + 1)
        assert struct.unpack(">I", gateway.uplink[-1][0][12:])[0] <= len(gateway.uplink) - count + 1


async def test_hello_faults_are_named(gateway: Gateway) -> None:
    gateway.hello_udp = {"key": "short"}
    async with Device(options(gateway, hello_timeout_s=0.3)) as device:
        await device.boot()
        with pytest.raises(HelloError, match=r"udp.key is not 32 hexadecimal digits"):
            await device.open_channel()
        assert device.state is State.IDLE
        gateway.answers_hello = False
        with pytest.raises(HelloError, match=r"did not answer hello within 0\.3 s at all"):
            await device.open_channel()
    async with Device(options(gateway, profile="1.8")) as device:
        gateway.answers_hello = True
        await device.boot()
        with pytest.raises(FirmwareCrashError):
            await device.open_channel()


async def test_mcp_answers_wait_for_hello(gateway: Gateway) -> None:
    """The main task that answers MCP is the one that waits for hello."""
    gateway.answers_hello = False
    async with Device(options(gateway)) as device, asyncio.TaskGroup() as tasks:
        await device.boot()
        opening = tasks.create_task(device.open_channel())
        await gateway.until(lambda: bool(gateway.sent_by_device("hello")))
        gateway.send({"type": "mcp", "payload": {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}})
        await asyncio.sleep(0.1)
        assert not gateway.sent_by_device("mcp")
        gateway.grant()
        await opening
        await gateway.until(lambda: bool(gateway.sent_by_device("mcp")))
        assert gateway.sent_by_device("mcp")[0]["payload"]["result"]["protocolVersion"] == "2024-11-05"


async def test_tools_change_the_device(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        call = {"name": "self.audio_speaker.set_volume", "arguments": {"volume": 30}}
        gateway.send({"type": "mcp", "payload": {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}})
        await gateway.until(lambda: device.volume == 30)
        await gateway.until(lambda: bool(gateway.sent_by_device("mcp", session_id="")))


async def test_reboot_boots_again(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        await device.open_channel()
        gateway.send({"type": "system", "command": "reboot"})
        await gateway.until(lambda: device.stats.boots == 2 and device.control.connected.is_set())
        assert len(gateway.sent_by_device("goodbye")) == 1


async def test_legacy_things(gateway: Gateway) -> None:
    async with Device(options(gateway, profile="1.6.2")) as device:
        await device.boot()
        await device.start_listening()
        await gateway.until(lambda: bool(gateway.sent_by_device("listen")))
        assert "features" not in gateway.messages[0]
        assert [message["type"] for message in gateway.messages] == ["hello", "iot", "iot", "listen"]
        assert gateway.messages[1]["descriptors"][0]["name"] == "Speaker"
        assert gateway.messages[2]["states"] == [{"name": "Speaker", "state": {"volume": 70}}]
        gateway.send({"type": "iot", "commands": [{"name": "Speaker", "method": "SetVolume", "parameters": {"volume": 20}}]})
        await gateway.until(lambda: device.volume == 20)


async def test_py_xiaozhi_subscribes_and_keeps_nonce_bytes(gateway: Gateway) -> None:
    gateway.hello_udp = {"nonce": "01000000a1b2c3d40102030400000000"}
    answer = gateway.ota_answer()
    answer["mqtt"]["subscribe_topic"] = "devices/p2p/x"
    gateway.answers = [(200, json.dumps(answer).encode())]
    async with Device(options(gateway, profile="py-xiaozhi")) as device:
        await device.boot()
        await device.start_listening()
        await gateway.until(lambda: len(gateway.uplink) > 2)
        assert 8 in gateway.packet_types
        assert gateway.messages[0]["audio_params"]["frame_duration"] == 20
        assert gateway.uplink[0][0][8:12] == bytes([1, 2, 3, 4])


async def test_no_audio_and_no_answer_are_told_apart(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        with pytest.raises(NoAnswerError, match="Nothing was understood") as caught:
            await device.converse(QUESTION, timeout_s=0.3)
        assert caught.value.record is not None
        before = device.snapshot()
        gateway.send({"type": "stt", "text": "hello"})
        with pytest.raises(NoAnswerError, match="language model"):
            await device.await_reply(before, timeout_s=0.2)
        before = device.snapshot()
        gateway.tts("start")
        gateway.tts("stop")
        with pytest.raises(NoAudioError, match="no UDP packet came back"):
            await device.await_reply(before, timeout_s=2)


async def test_connection_refused_and_refused_credentials(gateway: Gateway) -> None:
    gateway.connack = 5
    with pytest.raises(MqttError, match="refused the credentials"):
        async with Device(options(gateway)) as device:
            await device.boot()
    gateway.connack = 0
    answer = gateway.ota_answer()
    answer["mqtt"]["endpoint"] = "127.0.0.1:1"
    gateway.answers = [(200, json.dumps(answer).encode())]
    with pytest.raises(MqttError, match=r"127\.0\.0\.1:1 cannot be reached"):
        async with Device(options(gateway)) as device:
            await device.boot()
    with pytest.raises(OtaError, match="cannot be reached"):
        async with Device(options(gateway, ota_url="http://127.0.0.1:1/ota/")) as device:
            await device.boot()


async def test_loss_is_a_skip_and_is_counted(gateway: Gateway) -> None:
    impairment = Impairment(loss=0.3, seed=3)
    async with asyncio.TaskGroup() as tasks, Device(options(gateway, impairment=impairment)) as device:
        Script(gateway, tasks, listens=4)
        await device.boot()
        turn = await device.converse(QUESTION, timeout_s=20)
        assert turn.counters.played_packets < len(ANSWER.frames)
        assert turn.counters.downlink_packets < len(ANSWER.frames)
        assert turn.counters.lost_packets >= len(ANSWER.frames) - turn.counters.downlink_packets - 1


async def test_server_aec_builds_echo_the_timestamp_of_what_was_played(gateway: Gateway) -> None:
    async with Device(options(gateway, mode="realtime", aec=True)) as device:
        await device.boot()
        await device.start_listening()
        assert gateway.messages[0]["features"] == {"aec": True, "mcp": True}
        await gateway.until(lambda: len(gateway.uplink) > 0)
        gateway.tts("start")
        await asyncio.sleep(0.1)
        gateway.audio(ANSWER.frames[0], timestamp=660)
        gateway.audio(ANSWER.frames[1], timestamp=720)

        def echoed() -> set[int]:
            return {struct.unpack(">I", header[8:12])[0] for header, _ in gateway.uplink}

        await gateway.until(lambda: echoed() == {0, 660, 720})


@pytest.mark.parametrize(("profile", "truncated"), [("2.4", False), ("2.1", True), ("1.8", True)])
async def test_early_stop_truncates_on_old_firmware_and_defers_listening_on_new(gateway: Gateway, profile: str, *, truncated: bool) -> None:
    async with Device(options(gateway, profile=profile)) as device:
        await device.boot()
        await device.start_listening()
        await gateway.until(lambda: len(gateway.uplink) > 0)
        gateway.tts("start")
        await device.wait_for_state(State.SPEAKING)
        await asyncio.sleep(0.1)
        for frame in ANSWER.frames[:10]:
            gateway.audio(frame)
        await gateway.until(lambda: device.player.stats.queued == 10)
        gateway.tts("stop")
        await device.wait_for_state(State.LISTENING)
        if not truncated:
            assert len(gateway.sent_by_device("listen", state="start")) == 1
        await gateway.until(lambda: len(gateway.sent_by_device("listen", state="start")) == 2)
        assert device.player.drained
        assert (device.player.stats.dropped["truncated"] > 0) is truncated
        assert (device.player.stats.played == 10) is not truncated


async def test_a_goodbye_instead_of_an_answer_is_named(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        await device.start_listening()
        before = device.snapshot()
        gateway.send({"type": "goodbye", "session_id": gateway.session_id})
        with pytest.raises(NoAnswerError, match="goodbye"):
            await device.await_reply(before, timeout_s=0.2)


async def test_noise_from_the_server_is_survived(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        await device.open_channel()
        for text in (
            "",
            "[]",
            "{",
            '{"type":5}',
            "[" * 5000,
            '{"type":"custom"}',
            '{"type":"tts"}',
            '{"type":"mcp","payload":1}',
            '{"type":"iot"}',
        ):
            gateway.send(text)
        gateway.send({"type": "stt", "text": "still here"})
        await device.wait_for(is_message("stt", text="still here"), since=0)
        assert device.stats.invalid_messages == 5
        assert device.stats.unknown_messages == 1
        assert device.state is State.IDLE


async def test_a_closed_udp_port_is_named(gateway: Gateway) -> None:
    gateway.hello_udp = {"port": 1}
    async with Device(options(gateway)) as device:
        await device.boot()
        with pytest.raises(NoAnswerError, match=r"127\.0\.0\.1:1 refuses UDP"):
            await device.converse(QUESTION, timeout_s=0.2)
        gateway.hello_udp = {"server": "256.256.256.256"}
        await device.goodbye()
        with pytest.raises(HelloError, match=r"256\.256\.256\.256"):
            await device.open_channel()


async def test_any_message_can_be_sent(gateway: Gateway) -> None:
    async with Device(options(gateway)) as device:
        await device.boot()
        await device.send({"type": "abort", "session_id": ""})
        await device.send("no json")
        await gateway.until(lambda: gateway.raw[-1:] == [b"no json"])
        assert gateway.sent_by_device("abort") == [{"type": "abort", "session_id": ""}]


async def test_push_to_talk_interrupts_with_abort_then_listen(gateway: Gateway) -> None:
    async with Device(options(gateway, mode="manual")) as device:
        await device.boot()
        await device.open_channel()
        gateway.tts("start")
        await device.wait_for_state(State.SPEAKING)
        await device.start_listening()
        await gateway.until(lambda: len(gateway.messages) == 3)
        assert [message["type"] for message in gateway.messages] == ["hello", "abort", "listen"]
        await device.stop_listening()
        await gateway.until(lambda: bool(gateway.sent_by_device("listen", state="stop")))


async def test_without_input_the_channel_counts_as_closed_and_hello_comes_without_goodbye(gateway: Gateway) -> None:
    async with Device(options(gateway, channel_timeout_s=0.1)) as device:
        await device.boot()
        await device.start_listening()
        await asyncio.sleep(0.2)
        assert not device.channel_open
        assert device.state is State.LISTENING
        await device.start_listening()
        await gateway.until(lambda: len(gateway.sent_by_device("listen")) == 2)
        assert [message["type"] for message in gateway.messages] == ["hello", "listen", "hello", "listen"]


async def test_twenty_devices_share_their_packets() -> None:
    async def one() -> None:
        async with Gateway() as server, asyncio.TaskGroup() as tasks, Device(options(server, decode=False)) as device:
            Script(server, tasks)
            await device.boot()
            turn = await device.converse(QUESTION, timeout_s=30)
            assert turn.counters.played_packets == len(ANSWER.frames)

    async with asyncio.TaskGroup() as crowd:
        for _ in range(20):
            crowd.create_task(one())
