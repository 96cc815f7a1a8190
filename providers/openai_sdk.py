"""What the OpenAI-compatible providers share: the SDK's client and its errors in our words.

The SDK takes most of a second to import, so it is imported in a worker thread when the first client is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from providers.base import ProviderError, ProviderRejected, ProviderTimeout, ProviderUnavailable

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_NO_KEY: Final = "none"  # servers of one's own ask for no key, but the SDK insists on one
_MAX_DETAIL_CHARS: Final = 200
MAX_RETRY_WAIT_S: Final = 2.0


class Endpoint(Protocol):
    """What the configurations of the three OpenAI-compatible providers have in common."""

    @property
    def base_url(self) -> str: ...
    @property
    def api_key(self) -> SecretStr: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def retries(self) -> int: ...


class Client:
    """The SDK's client of one provider, made when it is first needed; afterwards closed for good."""

    def __init__(self, config: Endpoint, *, provider: str) -> None:
        self._config = config
        self._provider = provider
        self._sdk: AsyncOpenAI | None = None
        self._warm = False
        self._making = asyncio.Lock()
        self._closed = False

    async def get(self) -> AsyncOpenAI:
        """The client with its own connection pool.

        Raises ProviderRejected when the configuration cannot make one (an address that is none), ProviderUnavailable once closed.
        """
        async with self._making:
            if self._closed:
                raise ProviderUnavailable(f"the connection to {where(self._config.base_url)} is closed", provider=self._provider)
            if self._sdk is None:
                self._sdk = await asyncio.get_running_loop().run_in_executor(None, _make, self._config)
            return self._sdk

    async def warm(self) -> None:
        """Make the first request like the later ones: rehearse the SDK, then open a connection (DNS, TCP, TLS). Idempotent.

        Any answer will do, and no answer is no error here. Raises as :meth:`get`.
        """
        sdk = await self.get()
        if self._warm:
            return
        self._warm = True
        import openai

        await asyncio.get_running_loop().run_in_executor(None, _rehearse)
        with contextlib.suppress(openai.OpenAIError):
            await sdk.with_options(max_retries=0, timeout=5).models.list()

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        self._closed = True
        sdk, self._sdk = self._sdk, None
        if sdk is not None:
            await sdk.close()


def _make(config: Endpoint) -> AsyncOpenAI:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    if urlsplit(config.base_url).scheme not in {"http", "https"}:
        raise ProviderRejected(f"base_url {config.base_url!r} is not an http(s) address", provider="openai")
    key = config.api_key.get_secret_value() or _NO_KEY
    http = DefaultAsyncHttpxClient(timeout=config.timeout_s, event_hooks={"response": [_give_up_on_long_waits]})
    return AsyncOpenAI(api_key=key, base_url=config.base_url, timeout=config.timeout_s, max_retries=config.retries, http_client=http)


async def _give_up_on_long_waits(response: Any) -> None:
    """An endpoint that wants to be left alone for longer than anybody waits for an answer is not asked again.

    The SDK would sleep for up to a minute, as ``Retry-After`` says; it obeys ``x-should-retry``.
    """
    try:
        wait_s = float(response.headers.get("retry-after", "0"))
    except ValueError:  # a date: one that is far away cannot be told from one that is near without the peer's clock
        wait_s = MAX_RETRY_WAIT_S
    if wait_s > MAX_RETRY_WAIT_S:
        response.headers["x-should-retry"] = "false"


@functools.cache
def _rehearse() -> None:
    """Make each kind of request once, without a network: the SDK imports and builds most of itself at its first use."""
    asyncio.run(_rehearsal())


async def _rehearsal() -> None:
    import openai

    http = importlib.import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])

    def answer(request: Any) -> Any:
        if request.url.path.endswith("/transcriptions"):
            return http.Response(200, json={"text": ""})
        if request.url.path.endswith("/speech"):
            return http.Response(200, content=b"")
        chunk = {
            "id": "",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "",
            "choices": [{"index": 0, "delta": {"content": ""}}],
        }
        return http.Response(200, text=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n", headers={"content-type": "text/event-stream"})

    transport = http.MockTransport(answer)
    async with openai.AsyncOpenAI(
        api_key=_NO_KEY, base_url="http://rehearsal.invalid/v1", http_client=openai.DefaultAsyncHttpxClient(transport=transport)
    ) as sdk:
        await sdk.audio.transcriptions.create(model="", file=("speech.wav", b"", "audio/wav"), response_format="json")
        stream = await sdk.chat.completions.create(model="", messages=[{"role": "user", "content": ""}], stream=True)
        async with stream:
            async for _ in stream:
                pass
        async with sdk.audio.speech.with_streaming_response.create(model="", voice="alloy", input="", response_format="pcm") as speech:
            await speech.read()


def where(base_url: str) -> str:
    """The host (and port) of an address, for sentences; never its credentials or query."""
    parts = urlsplit(base_url)
    try:
        return f"{parts.hostname}:{parts.port}" if parts.port else (parts.hostname or base_url)
    except ValueError:  # a port that is no number
        return parts.hostname or base_url


@contextlib.contextmanager
def translated_errors(provider: str, base_url: str) -> Iterator[None]:
    """Within it, what the SDK raises becomes a :class:`ProviderError` whose sentence says what to do.

    To be used inside the function that calls the SDK, not around a ``yield`` to the consumer of a stream.
    """
    import openai

    try:
        yield
    except openai.OpenAIError as error:
        raise _translated(error, provider, where(base_url)) from error
    except _transport_errors() as error:  # a stream that breaks off half-way surfaces as the HTTP library's error
        raise _translated_transport(error, provider, where(base_url)) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:  # the SDK lets them through
        raise ProviderUnavailable(f"{where(base_url)} sent an answer that is not JSON", provider=provider) from error
    except UnicodeEncodeError as error:  # the key goes into a header
        raise ProviderRejected("the api_key holds characters that cannot be sent; copy it again", provider=provider) from error


def _transport_errors() -> tuple[type[Exception], ...]:
    """The error base of the HTTP libraries that versions of the SDK stand on."""
    import httpx

    found: list[type[Exception]] = [httpx.HTTPError, httpx.StreamError]
    with contextlib.suppress(ImportError):
        import httpx2

        found += [httpx2.HTTPError, httpx2.StreamError]
    return tuple(found)


def _translated_transport(error: Exception, provider: str, host: str) -> ProviderError:
    if "Timeout" in type(error).__name__:
        return ProviderTimeout(f"{host} stopped answering half-way", provider=provider)
    return ProviderUnavailable(f"the connection to {host} broke off ({type(error).__name__})", provider=provider)


def _translated(error: Exception, provider: str, host: str) -> ProviderError:
    import openai

    if isinstance(error, openai.APITimeoutError):
        return ProviderTimeout(f"{host} did not answer in time; raise timeout_s or use a faster model", provider=provider)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        reason = f" ({cause})" if cause and str(cause) else ""
        return ProviderUnavailable(f"{host} cannot be reached{reason}; check base_url and that the server runs", provider=provider)
    if isinstance(error, openai.APIStatusError):
        return _by_status(error.status_code, _detail(error), provider, host)
    return ProviderUnavailable(f"{host} gave an answer that cannot be used ({type(error).__name__}{_quoted(error)})", provider=provider)


_BY_STATUS: Final[dict[int, tuple[type[ProviderError], str]]] = {
    401: (ProviderRejected, "{host} refused the key (401); check api_key"),
    403: (ProviderRejected, "{host} does not allow this (403){detail}; check the rights of api_key"),
    404: (ProviderRejected, "{host} has no such model or path (404){detail}; check model and that base_url is right up to its /v1"),
    408: (ProviderTimeout, "{host} gave up waiting (408){detail}"),
    409: (ProviderUnavailable, "{host} is busy with a conflicting request (409){detail}; try again"),
    429: (ProviderUnavailable, "{host} is asked too often (429){detail}; try again later"),
    504: (ProviderTimeout, "{host} gave up waiting (504){detail}"),
}
_SPENT: Final = (ProviderRejected, "the quota at {host} is used up (429){detail}; top up or use another key")
_FAULT: Final = (ProviderUnavailable, "{host} has a fault of its own ({status}){detail}")
_REFUSED: Final = (ProviderRejected, "{host} refused the request ({status}){detail}")


def _by_status(status: int, detail: str, provider: str, host: str) -> ProviderError:
    kind, sentence = _BY_STATUS.get(status) or (_FAULT if status >= 500 else _REFUSED)
    if status == 429 and any(word in detail for word in ("quota", "billing", "balance")):
        kind, sentence = _SPENT
    return kind(sentence.format(host=host, detail=detail, status=status), provider=provider)


def _detail(error: Any) -> str:
    """The endpoint's own sentence, capped and on one line: it is the peer's text. Never with status 401, which may echo the key."""
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    if not isinstance(message, str):
        return ""
    printable = "".join(character if character.isprintable() else " " for character in message)
    return f": {printable[:_MAX_DETAIL_CHARS].strip()}"


def _quoted(error: Exception) -> str:
    text = " ".join(str(error).split())[:_MAX_DETAIL_CHARS]
    return f": {text}" if text else ""
