"""The transcription client against a real HTTP server that speaks the endpoint's protocol."""

from __future__ import annotations

import asyncio
import contextlib
import io
import wave
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from providers.asr.openai import OpenAiTranscription
from providers.base import PcmFrame, ProviderError, ProviderRejected, ProviderTimeout, ProviderUnavailable, SpeechToText, Transcript
from settings.providers import OpenAiAsr
from tests.providers.spoken import noise


@dataclass
class Endpoint:
    """What the server shall answer and what it was asked."""

    answers: list[Response] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    delay_s: float = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def models(self, request: Request) -> Response:
        self.paths.append(request.url.path)
        return JSONResponse({"object": "list", "data": []})

    async def transcriptions(self, request: Request) -> Response:
        self.paths.append(request.url.path)
        async with request.form() as form:
            upload = form["file"]
            assert isinstance(upload, UploadFile)
            fields = {name: value for name, value in form.items() if name != "file"}
            self.asked.append({"wav": await upload.read(), "key": request.headers["authorization"], **fields})
        self.reached.set()
        await asyncio.sleep(self.delay_s)
        return self.answers.pop(0) if self.answers else JSONResponse({"text": "Turn on the light."})


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    state = Endpoint()
    app = Starlette(
        routes=[
            Route("/v1/models", state.models),
            Route("/v1/audio/transcriptions", state.transcriptions, methods=["POST"]),
        ]
    )
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none", lifespan="off"))
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve())
        async with asyncio.timeout(10):
            while not server.started:
                await asyncio.sleep(0.005)
        state.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
        yield state
        server.should_exit = True


async def frames(*pieces: Any) -> AsyncIterator[PcmFrame]:
    for piece in pieces:
        yield PcmFrame(piece, 16000)


async def heard(asr: SpeechToText, *pieces: Any) -> list[Transcript]:
    async with contextlib.aclosing(asr.transcribe(frames(*pieces))) as stream:
        return [transcript async for transcript in stream]


@contextlib.asynccontextmanager
async def asr_for(url: str, **changes: Any) -> AsyncIterator[OpenAiTranscription]:
    asr = OpenAiTranscription(OpenAiAsr(base_url=url, **({"retries": 0, "timeout_s": 10} | changes)))
    try:
        yield asr
    finally:
        await asr.aclose()


SPEECH = noise(0.5, level=3000)


async def test_uploads_one_wav_and_returns_the_text(endpoint: Endpoint) -> None:
    async with asr_for(endpoint.url, api_key=SecretStr("sk-1"), model="m-1", language="zh-CN") as asr:
        assert await heard(asr, SPEECH[:3000], SPEECH[3000:]) == [Transcript("Turn on the light.", "zh")]
    (asked,) = endpoint.asked
    assert (asked["key"], asked["model"], asked["language"], asked["response_format"]) == ("Bearer sk-1", "m-1", "zh", "json")
    with wave.open(io.BytesIO(asked["wav"])) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        assert np.array_equal(np.frombuffer(file.readframes(file.getnframes()), "<i2"), SPEECH)


async def test_a_server_of_ones_own_needs_no_key(endpoint: Endpoint) -> None:
    endpoint.answers.append(JSONResponse({"text": " 打开灯。 ", "language": "zh"}))
    async with asr_for(endpoint.url) as asr:
        assert await heard(asr, SPEECH) == [Transcript("打开灯。", "zh")]
    assert "language" not in endpoint.asked[0]


async def test_warming_opens_the_connection_and_may_fail(endpoint: Endpoint) -> None:
    async with asr_for(endpoint.url) as asr:
        await asr.warm()
        await asr.warm()
        assert endpoint.paths == ["/v1/models"]
        await heard(asr, SPEECH)
    async with asr_for("http://127.0.0.1:1/v1") as unreachable:
        await unreachable.warm()


async def test_silence_costs_no_request(endpoint: Endpoint) -> None:
    async with asr_for(endpoint.url) as asr:
        assert await heard(asr) == [Transcript("")]
        assert await heard(asr, np.zeros(8000, np.int16), np.zeros(0, np.int16)) == [Transcript("")]
    assert endpoint.asked == []


@pytest.mark.parametrize("text", ["", " . ", "Thanks for watching!", "请不吝点赞 订阅 转发"])
async def test_phantoms_are_no_words(endpoint: Endpoint, text: str) -> None:
    endpoint.answers.append(JSONResponse({"text": text}))
    async with asr_for(endpoint.url) as asr:
        assert await heard(asr, SPEECH) == [Transcript("")]


def refusal(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "x", "code": None}}, status_code=status)


@pytest.mark.parametrize(
    ("answer", "kind", "sentence"),
    [
        (refusal(401, "Incorrect API key provided: sk-secret"), ProviderRejected, "refused the key"),
        (refusal(403, "region"), ProviderRejected, "does not allow"),
        (refusal(404, "The model m does not exist"), ProviderRejected, "no such model or path.*does not exist"),
        (refusal(400, "bad\nfile"), ProviderRejected, "refused the request \\(400\\): bad file"),
        (refusal(429, "slow down"), ProviderUnavailable, "asked too often"),
        (refusal(429, "You exceeded your current quota"), ProviderRejected, "quota"),
        (refusal(500, "oops"), ProviderUnavailable, "fault of its own"),
        (PlainTextResponse("gateway", status_code=504), ProviderTimeout, "gave up waiting"),
        (JSONResponse({"result": "?"}), ProviderUnavailable, "without a text"),
        (Response("{", media_type="application/json"), ProviderUnavailable, "not JSON"),
        (PlainTextResponse("<html>", media_type="text/html"), ProviderUnavailable, "without a text"),
        (PlainTextResponse('{"text": null}'), ProviderUnavailable, "without a text"),
    ],
)
async def test_refusals_say_what_to_do(endpoint: Endpoint, answer: Response, kind: type[ProviderError], sentence: str) -> None:
    endpoint.answers.append(answer)
    async with asr_for(endpoint.url, api_key=SecretStr("sk-secret")) as asr:
        with pytest.raises(kind, match=sentence) as caught:
            await heard(asr, SPEECH)
        assert caught.value.provider == "openai"
        assert "sk-secret" not in str(caught.value)
        assert await heard(asr, SPEECH)  # and goes on


async def test_a_passing_fault_is_retried(endpoint: Endpoint) -> None:
    endpoint.answers.append(refusal(503, "starting"))
    async with asr_for(endpoint.url, retries=1) as asr:
        assert (await heard(asr, SPEECH))[0].text
    assert len(endpoint.asked) == 2


async def test_unreachable_server_is_named() -> None:
    async with asr_for("http://127.0.0.1:1/v1") as asr:
        with pytest.raises(ProviderUnavailable, match=r"127\.0\.0\.1:1 cannot be reached"):
            await heard(asr, SPEECH)
    async with asr_for("localhost:8000/v1") as asr:
        with pytest.raises(ProviderRejected, match="not an http"):
            await heard(asr, SPEECH)


async def test_slow_server_times_out_retries_included(endpoint: Endpoint) -> None:
    endpoint.delay_s = 0.5
    async with asr_for(endpoint.url, timeout_s=0.1, retries=5) as asr:
        with pytest.raises(ProviderTimeout, match="gave no transcript within"):
            await heard(asr, SPEECH)


async def test_cancelled_request_leaves_the_provider_usable(endpoint: Endpoint) -> None:
    endpoint.delay_s = 0.3
    async with asr_for(endpoint.url) as asr:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(heard(asr, SPEECH))
            async with asyncio.timeout(5):
                await endpoint.reached.wait()
            task.cancel()
        endpoint.delay_s = 0
        assert (await heard(asr, SPEECH))[0].text


async def test_closed_is_closed(endpoint: Endpoint) -> None:
    async with asr_for(endpoint.url) as asr:
        await asr.aclose()
        with pytest.raises(ProviderUnavailable, match="closed"):
            await heard(asr, SPEECH)


async def test_a_bare_transcript_is_understood(endpoint: Endpoint) -> None:
    """Some servers ignore ``response_format`` and send the words as ``text/plain``."""
    endpoint.answers.append(PlainTextResponse(" Turn on the light.\n"))
    async with asr_for(endpoint.url) as asr:
        assert await heard(asr, SPEECH) == [Transcript("Turn on the light.")]


@pytest.mark.parametrize("text", ["[BLANK_AUDIO]", " (music) ", "*coughs*", "（笑声）", "[MUSIC] [APPLAUSE]", "♪ la la ♪"])
async def test_check_055_a_caption_is_not_speech(endpoint: Endpoint, text: str) -> None:
    endpoint.answers.append(JSONResponse({"text": text}))
    async with asr_for(endpoint.url) as asr:
        assert await heard(asr, SPEECH) == [Transcript("")]


async def test_words_beside_a_caption_are_kept(endpoint: Endpoint) -> None:
    endpoint.answers.append(JSONResponse({"text": "(sighs) Turn on the light (please)."}))
    async with asr_for(endpoint.url) as asr:
        assert await heard(asr, SPEECH) == [Transcript("(sighs) Turn on the light (please).")]


async def test_check_090_nobody_waits_a_minute_for_a_busy_endpoint(endpoint: Endpoint) -> None:
    """The SDK would sleep as long as ``Retry-After`` says; we have until the limit of this test, and the time-out of the request."""
    endpoint.answers.append(JSONResponse({"error": {"message": "busy"}}, status_code=429, headers={"Retry-After": "45"}))
    async with asr_for(endpoint.url, retries=1, timeout_s=30) as asr:
        async with asyncio.timeout(15):
            with pytest.raises(ProviderUnavailable, match="asked too often"):
                await heard(asr, SPEECH)
    assert len(endpoint.asked) == 1


async def test_a_short_wait_is_waited_for(endpoint: Endpoint) -> None:
    endpoint.answers.append(JSONResponse({"error": {"message": "busy"}}, status_code=503, headers={"Retry-After": "0.01"}))
    async with asr_for(endpoint.url, retries=1) as asr:
        assert await heard(asr, SPEECH) == [Transcript("Turn on the light.")]
    assert len(endpoint.asked) == 2
