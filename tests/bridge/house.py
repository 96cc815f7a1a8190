"""A registry with its sessions and a real audio server, but no MQTT: devices that are driven by method calls.

For virtual time and for numbers: a device here costs nothing but its session.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any

from msgspec import UNSET

from bridge.codec_pool import CodecPool
from bridge.device.codec import Encoder
from bridge.device.datagram import Uplink
from bridge.observe import Metrics
from bridge.registry import Registry
from bridge.scope import task_scope
from bridge.session import Services, Session
from bridge.skills import Skills
from bridge.transport import AudioEndpoint
from bridge.turn import Engines
from mqtt_control.identity import DeviceIdentity
from mqtt_control.messages import Alert, Hello, HelloReply, Listen, Outbound, UdpParams
from providers.base import Pcm
from settings.load import load
from tests.scripted import EnergyVad, ScriptedAsr, ScriptedIntents, ScriptedLlm, ScriptedTts, silence
from tests.virtual_time import InlineExecutor
from udp_audio.server import AudioServer


class House:
    """Implements :class:`mqtt_control.link.Link`; keeps what is sent to each device."""

    def __init__(self, *, settings: dict[str, Any] | None = None, codec: Executor | None = None, keep: bool = True, **engines: Any) -> None:
        usual: dict[str, Any] = {"asr": ScriptedAsr(), "llm": ScriptedLlm(), "tts": ScriptedTts(), "intents": ScriptedIntents()}
        self.settings = load(None, overrides=settings or {}).tree
        self.metrics = Metrics()
        self.audio = AudioServer()
        self.sent: dict[str, list[Outbound]] = {}
        self.on_sent: Callable[[str, Outbound], None] = lambda _device_id, _message: None
        self._keep = keep
        self.services = Services(
            settings=self.settings,
            engines=Engines(
                **(usual | {key: engines[key] for key in engines if key != "vad"}), codec=CodecPool(codec or InlineExecutor(), at_once=4)
            ),
            vad=engines.get("vad", EnergyVad()),
            skills=Skills(assistant_name="Test", timezone=None),
            metrics=self.metrics,
            timezone=None,
        )
        self.registry: Registry

    # -- Link ----------------------------------------------------------------------------------------------------------
    def send(self, device_id: str, message: Outbound) -> bool:
        if self._keep:
            self.sent.setdefault(device_id, []).append(message)
        self.on_sent(device_id, message)
        return True

    def connected(self, device_id: str) -> bool:
        return True

    def disconnect(self, device_id: str) -> None: ...

    def of(self, device_id: str, kind: type[Any]) -> list[Any]:
        return [message for message in self.sent.get(device_id, []) if isinstance(message, kind)]


@asynccontextmanager
async def house(**options: Any) -> AsyncGenerator[House, None]:
    """A house whose sessions end with the block."""
    made = House(**options)
    port = await _start(made.audio)
    try:
        async with task_scope() as tasks:
            made.registry = Registry(
                services=made.services, audio=made.audio, audio_endpoint=lambda: AudioEndpoint("127.0.0.1", port), tasks=tasks
            )
            made.registry.attach(made)
            yield made
    finally:
        await made.audio.aclose()


async def _start(audio: AudioServer) -> int:
    """As :meth:`AudioServer.start`, but without its name look-up, which needs a thread: there are none in virtual time."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    audio._loop, audio._lost = loop, loop.create_future()
    audio._transport, _ = await loop.create_datagram_endpoint(lambda: audio, sock=sock)
    return int(sock.getsockname()[1])


class Inhabitant:
    """One device of a house. Its datagrams are handed to the audio server as if they came from ``address``."""

    def __init__(self, home: House, number: int = 1) -> None:
        self.identity = DeviceIdentity(f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}", f"client-{number}")
        self.address = ("127.0.0.1", 20000 + number % 40000)
        self._home = home
        self._uplink: Uplink | None = None
        self._encoder = Encoder(60)
        self.grant: HelloReply | None = None

    @property
    def session(self) -> Session:
        device = next(one for one in self._home.registry.devices if one.identity == self.identity)
        assert device.session is not None
        return device.session

    def connect(self) -> None:
        self._home.registry.device_connected(self.identity, "127.0.0.1")

    def hello(self) -> HelloReply:
        """Say hello; the reply comes at once."""
        replies: list[HelloReply] = []

        def note(device_id: str, message: Outbound) -> None:
            if device_id == self.identity.device_id and isinstance(message, HelloReply):
                replies.append(message)

        before, self._home.on_sent = self._home.on_sent, note
        self._home.registry.device_message(self.identity, Hello(transport="udp", version=3))
        self._home.on_sent = before
        self.take(replies[-1])
        return replies[-1]

    def take(self, reply: HelloReply) -> None:
        """Use what a reply grants."""
        self.grant = reply
        self._uplink = Uplink(bytes.fromhex(self.udp.key), bytes.fromhex(self.udp.nonce))

    @property
    def udp(self) -> UdpParams:
        """What the newest hello reply grants."""
        assert self.grant is not None
        assert self.grant.udp is not UNSET
        return self.grant.udp

    def listen(self, state: Any = "start", mode: Any = "auto", text: str = "") -> None:
        assert self.grant is not None
        self.tell(Listen(session_id=self.grant.session_id, state=state, mode=mode, text=text))

    def tell(self, message: Any) -> None:
        self._home.registry.device_message(self.identity, message)

    def audio(self, samples: Pcm | None = None) -> None:
        """One 60 ms packet, silent by default."""
        assert self._uplink is not None
        opus = self._encoder.encode(samples if samples is not None else silence(0.06))
        self._home.audio.datagram_received(self._uplink.seal(opus), self.address)

    @property
    def alerts(self) -> list[Alert]:
        return self._home.of(self.identity.device_id, Alert)


async def settle() -> None:
    """Let everything run that can run now."""
    for _ in range(20):
        await asyncio.sleep(0)
