"""Speech over HTTP, against a real server on the loopback that behaves as asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from providers.base import ProviderError, ProviderRejected, ProviderTimeout, ProviderUnavailable
from providers.tts.openai import OpenAiTts
from settings import providers as configs
from tests.providers import voices

TONE = (np.sin(np.arange(24000) / 20) * 12000).astype("<i2").tobytes()
WAV_16K = bytes.fromhex("52494646 ffffffff 57415645 666d7420 10000000 0100 0100 803e0000 007d0000 0200 1000 64617461 ffffffff")


@dataclass
class SpeechServer:
    """Answers ``POST /v1/audio/speech`` with these pieces, one TCP write each; keeps what was asked."""

    pieces: list[bytes] = field(default_factory=lambda: [TONE])
    status: int = 200
    content_type: str = "audio/pcm"
    failures: int = 0
    stall_after: int | None = None
    break_after: int | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    dropped: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request_line := await reader.readline():
                await self._answer(request_line, await self._body(reader), writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.dropped.set()
        finally:
            writer.close()

    async def _body(self, reader: asyncio.StreamReader) -> bytes:
        length = 0
        while (line := await reader.readline()).strip():
            name, _, value = line.decode().partition(":")
            if name.lower() == "content-length":
                length = int(value)
        return await reader.readexactly(length)

    async def _answer(self, request_line: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        if b"/audio/speech" not in request_line:
            writer.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n{"data": []}')
            return
        self.requests.append(json.loads(body))
        if self.failures:
            self.failures -= 1
            writer.write(b"HTTP/1.1 503 Busy\r\nretry-after-ms: 1\r\ncontent-length: 0\r\n\r\n")
            return
        if self.status != 200:
            error = json.dumps({"error": {"message": "no such voice"}}).encode()
            head = f"HTTP/1.1 {self.status} No\r\ncontent-type: application/json\r\ncontent-length: {len(error)}\r\n\r\n"
            writer.write(head.encode() + error)
            return
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {self.content_type}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        for number, piece in enumerate(self.pieces):
            if number == self.break_after:
                raise ConnectionError
            if number == self.stall_after:
                await asyncio.sleep(30)
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")


@asynccontextmanager
async def speaking(server: SpeechServer, **options: Any) -> AsyncIterator[OpenAiTts]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    config = {"base_url": f"http://127.0.0.1:{port}/v1", "timeout_s": 5, **options}
    tts = OpenAiTts(configs.OpenAiTts(**config))
    try:
        yield tts
    finally:
        await tts.aclose()
        listener.close()


async def test_raw_pcm_cut_at_odd_bytes() -> None:
    server = SpeechServer([TONE[start : start + 997] for start in range(0, len(TONE), 997)])
    async with speaking(server, voice="nova", model="m", speed=1.2) as tts:
        await tts.warm()
        samples, rate_hz = await voices.spoken(tts, "**Hello** 😀")
    assert server.requests == [{"input": "Hello", "model": "m", "voice": "nova", "response_format": "pcm", "speed": 1.2}]
    assert rate_hz == 24000
    expected = np.frombuffer(TONE, dtype="<i2")
    first = int(np.flatnonzero(np.abs(expected) >= 200)[0])
    assert np.array_equal(samples[200:20000], expected[200:20000])
    assert first < 30
    assert abs(int(samples[0])) < 10
    assert abs(int(samples[-1])) < 10


async def test_wav_instead_of_raw_pcm() -> None:
    async with speaking(SpeechServer([WAV_16K[:7], WAV_16K[7:], TONE], content_type="audio/wav")) as tts:
        samples, rate_hz = await voices.spoken(tts, "Hello")
    assert rate_hz == 16000
    assert np.array_equal(samples[200:20000], np.frombuffer(TONE, dtype="<i2")[200:20000])


async def test_rates() -> None:
    async with speaking(SpeechServer(), sample_rate_hz=44100) as tts:
        assert (await voices.spoken(tts, "Hello"))[1] == 44100
    async with speaking(SpeechServer(content_type="audio/L16; rate=16000"), sample_rate_hz=44100) as tts:
        assert (await voices.spoken(tts, "Hello"))[1] == 16000


@pytest.mark.parametrize(("seconds", "passed_on"), [(0.5, 0.5), (60, 10)])
async def test_silence_alone_is_passed_on(seconds: float, passed_on: float) -> None:
    """A sentence without any sound would be neither heard nor shown."""
    async with speaking(SpeechServer([bytes(24000)] * int(seconds * 2))) as tts, aclosing(tts.synthesize("Hello.")) as speech:
        frames = [frame async for frame in speech]
    assert sum(len(frame.samples) for frame in frames) == passed_on * 24000
    assert not any(frame.samples.any() for frame in frames)


async def test_silence_around_is_trimmed() -> None:
    silence = bytes(48000)
    async with speaking(SpeechServer([silence, TONE, silence])) as tts:
        samples, rate_hz = await voices.spoken(tts, "Hello")
    assert len(samples) / rate_hz == pytest.approx(1.13, abs=0.02)


async def test_the_first_piece_comes_before_the_last_is_made() -> None:
    async with speaking(SpeechServer([TONE, TONE], stall_after=1)) as tts, aclosing(tts.synthesize("Hello")) as frames:
        async with asyncio.timeout(4):
            first = await anext(frames)
    assert first.duration_s > 0.5


@pytest.mark.parametrize(
    ("server", "error", "sentence"),
    [
        (SpeechServer(status=401), ProviderRejected, "key"),
        (SpeechServer(status=400), ProviderRejected, "no such voice"),
        (SpeechServer(status=500), ProviderUnavailable, "500"),
        (SpeechServer([b"ID3\x04" + TONE]), ProviderRejected, "MP3"),
        (SpeechServer(content_type="audio/mpeg"), ProviderRejected, "audio/mpeg"),
        (SpeechServer([b'{"oops": true}']), ProviderRejected, "JSON"),
        (SpeechServer([]), ProviderUnavailable, "no sound"),
        (SpeechServer([b"\x01"]), ProviderUnavailable, "no sound"),
        (SpeechServer([TONE, TONE], break_after=1), ProviderUnavailable, "broke off"),
    ],
)
async def test_failures_in_our_words(server: SpeechServer, error: type[ProviderError], sentence: str) -> None:
    async with speaking(server, retries=0, api_key="secret-key") as tts:
        with pytest.raises(error, match=sentence) as caught:
            await voices.spoken(tts, "Hello")
        assert caught.value.provider == "openai"
        assert "secret-key" not in str(caught.value)


async def test_stalls_time_out() -> None:
    async with speaking(SpeechServer([TONE, TONE], stall_after=1), timeout_s=0.3, retries=0) as tts:
        with pytest.raises(ProviderTimeout):
            await voices.spoken(tts, "Hello")
        with pytest.raises(ProviderTimeout):  # and the provider goes on
            await voices.spoken(tts, "Hello")


async def test_a_passing_failure_is_retried() -> None:
    server = SpeechServer(failures=1)
    async with speaking(server, retries=1) as tts:
        await voices.spoken(tts, "Hello")
    assert len(server.requests) == 2


async def test_nobody_there() -> None:
    tts = OpenAiTts(configs.OpenAiTts(base_url="http://127.0.0.1:9/v1", retries=0, timeout_s=2))
    await tts.warm()  # is no error: the endpoint may come later
    with pytest.raises(ProviderUnavailable, match="cannot be reached"):
        await voices.spoken(tts, "Hello")
    await tts.aclose()
    await tts.aclose()
    with pytest.raises(ProviderUnavailable, match="closed"):
        await voices.spoken(tts, "Hello")


async def test_left_half_way_the_provider_stays_usable() -> None:
    server = SpeechServer([TONE] * 200)
    async with speaking(server) as tts:
        for _ in range(3):
            async with aclosing(tts.synthesize("Hello")) as frames:
                await anext(frames)
        server.pieces = [TONE]
        assert len((await voices.spoken(tts, "Hello"))[0]) > 20000


async def test_cancelled_while_waiting_the_provider_stays_usable() -> None:
    server = SpeechServer([TONE, TONE], stall_after=0)
    async with speaking(server) as tts:
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(voices.spoken(tts, "Hello"))
            await asyncio.sleep(0.3)
            waiting.cancel()
        server.stall_after = None
        assert len((await voices.spoken(tts, "Hello"))[0]) > 20000


async def test_no_words_no_request() -> None:
    server = SpeechServer()
    async with speaking(server) as tts:
        assert [frame async for frame in tts.synthesize("🎵")] == []
    assert server.requests == []
