"""Every firmware generation that the simulated device knows, and the authenticated client, in a conversation with the real bridge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.admin import read_access
from bridge.app import bridge
from bridge.banner import Facts
from bridge.device import Device, DeviceOptions, Speech
from bridge.device.profiles import PROFILES
from bridge.device.speech import encode_speech
from bridge.engines import Providers
from settings.load import load
from tests.scripted import EnergyVad, ScriptedAsr, ScriptedIntents, ScriptedLlm, ScriptedTts, tone

MAC = "02:00:00:00:00:01"
ANSWERS = (("It is three in the afternoon.",), ("You are welcome. Good-bye for now.",))


class House:
    """The running bridge and what may be asked of it."""

    def __init__(self, facts: Facts, directory: Path) -> None:
        self.facts = facts
        access = read_access(directory)
        assert access is not None
        self._access = access

    def device(self, **options: Any) -> Device:
        return Device(DeviceOptions(ota_url=self.facts.ota_url, device_id=MAC, warm_up_s=0.0, main_loop_pass_s=0.0, **options))

    async def reception(self) -> dict[str, Any]:
        """``GET /api/devices/{id}/stats``"""
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(
                f"{self._access.url}/api/devices/{MAC}/stats", headers={"Authorization": f"Bearer {self._access.token}"}
            )
        told: dict[str, Any] = answer.raise_for_status().json()
        return told

    async def metrics(self) -> str:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"{self._access.url}/metrics")).text


@asynccontextmanager
async def house(directory: Path) -> AsyncIterator[House]:
    loaded = load(
        environ={},
        directory=directory,
        overrides={
            "data_dir": str(directory),
            **dict.fromkeys(("http.host", "mqtt.host", "udp.host", "advertise.host"), "127.0.0.1"),
            **dict.fromkeys(("http.port", "mqtt.port", "udp.port"), 0),
            "udp.receive_buffer_bytes": 65536,
            "vad.silence_ms": 200,
            "vad.max_silence_ms": 300,
        },
    )
    engines = Providers(
        vad=EnergyVad(),
        asr=ScriptedAsr(("what time is it?", "thank you")),
        llm=ScriptedLlm(ANSWERS),
        tts=ScriptedTts(),
        intents=ScriptedIntents(),
    )
    async with bridge(loaded, providers=lambda _settings, _store: engines) as facts:
        yield House(facts, directory)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(house(tmp_path))


def question(frame_ms: int) -> Speech:
    return encode_speech(tone(0.6), frame_ms=frame_ms)


async def two_turns(device: Device) -> None:
    """Two turns in one session, each heard, answered and played to its end."""
    said = question(device.profile.frame_ms)
    for heard, answer in zip(("what time is it?", "thank you"), ANSWERS, strict=True):
        turn = await device.converse(said, timeout_s=30)
        assert turn.answered
        assert (turn.stt, turn.reply) == (heard, " ".join(answer))
        assert turn.counters.lost_packets == 0
        lost = {reason: count for reason, count in turn.counters.dropped.items() if reason != "truncated"}
        assert lost == {}
        assert turn.counters.max_depth <= device.profile.queue_packets
        # 20 ms a character; the end of an utterance is not cut off by `tts stop` either
        assert len(turn.heard_wav) / turn.sample_rate_hz >= sum(len(one) * 0.02 for one in answer) - 0.06
    assert device.stats.hellos == 1


@pytest.mark.parametrize("profile", PROFILES)
async def test_check_077_two_turns_with_each_generation(home: House, profile: str) -> None:
    async with home.device(profile=profile) as device:
        await device.boot()
        await two_turns(device)
        told = await home.reception()
        assert (told["lost"], told["rejected"], told["sessions"]) == (0, 0, 1)
        assert told["received"] == told["expected"] > 20
        assert told["last_seen_s"] < 30
        assert f'xiaozhi_device_uplink_received_total{{device="{MAC}"}}' in await home.metrics()
        await device.goodbye()


async def test_a_client_that_offers_authentication_gets_it(home: House) -> None:
    async with home.device(aead=True) as device:
        await device.boot()
        await device.open_channel()
        assert device.grant is not None
        assert device.grant.encryption == "aes-128-gcm"
        assert device.channel is not None
        device.channel.send_raw(b"\x01\x00\x00\x20" + device.grant.nonce[4:8] + bytes(4) + b"\0\0\0\x09" + bytes(32))
        await two_turns(device)
        assert (await home.reception())["rejected"] == 1
        assert device.channel_stats.rejected == {}


@pytest.mark.parametrize("profile", PROFILES)
async def test_stock_devices_are_not_offered_it(home: House, profile: str) -> None:
    async with home.device(profile=profile) as device:
        await device.boot()
        await device.open_channel()
        replies = [event.message for event in device.events if event.message["type"] == "hello"]
        assert [reply["udp"]["encryption"] for reply in replies] == ["aes-128-ctr"]
