"""The devices that are known to this process, and the one session each may have.

Listens to the MQTT link and to WebSockets. A hello opens a session on the transport it came by (and replaces an older one
of the same device, on whichever); everything else goes to the session it names. The session belongs to the
authenticated device, not to a connection: it outlives an MQTT drop, though not its WebSocket, which carries its audio.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from msgspec import UNSET

from bridge.audio_path import PathState
from bridge.history import History
from bridge.reception import Ledger, ReceptionReport
from bridge.session import Services, Session
from bridge.transport import AudioEndpoint, MqttUdp, Transport
from iot.descriptors import Things
from iot.device_mcp import DeviceMcp
from iot.toolbox import ToolBox
from mqtt_control.identity import DeviceIdentity
from mqtt_control.link import Link
from mqtt_control.messages import (
    Abort,
    AudioParams,
    Goodbye,
    Hello,
    HelloReply,
    Inbound,
    Iot,
    IotCommands,
    Listen,
    Mcp,
    McpOut,
    Outbound,
)
from settings.model import Audio
from udp_audio.server import AudioServer

log = structlog.get_logger(__name__)

HISTORY_KEPT_S = 600.0
"""A conversation goes on when the next session begins within this time."""
UPLINK_FRAMES_MS = (20, 40, 60)


@dataclass(slots=True)
class Device:
    """What the process remembers of one device between connections and sessions."""

    identity: DeviceIdentity
    mcp: DeviceMcp
    history: History
    mqtt: MqttUdp
    connected: bool = False
    """Over MQTT, or in a session over a WebSocket."""
    session: Session | None = None
    via: Transport | None = None
    """What carries the session."""
    unheard_goodbye: str = ""
    """A session of which the device may not know that it has ended."""
    last_session_end: float = 0.0
    grace: asyncio.TimerHandle | None = field(default=None, repr=False)
    last_audio_path: PathState = PathState.UNKNOWN
    ledger: Ledger = field(default_factory=Ledger, repr=False)

    @property
    def audio_path(self) -> PathState:
        """Whether its audio arrives, now or in its last session."""
        return self.session.audio_path if self.session is not None else self.last_audio_path


class Registry:
    """Implements :class:`mqtt_control.link.LinkListener` and :class:`bridge.transport.TransportListener`.

    Sessions run in ``tasks``.
    """

    def __init__(
        self,
        *,
        services: Services,
        audio: AudioServer,
        audio_endpoint: Callable[[], AudioEndpoint],
        tasks: asyncio.TaskGroup,
        admits_hello: Callable[[str, str], bool] = lambda _device_id, _peer_ip: True,
        firmware: Callable[[str], str] = lambda _: "",
    ) -> None:
        """``admits_hello`` says whether a device (its id, its address) may open a session now.

        ``firmware`` gives the version that a device told at its check-version, by Device-Id; empty when it is not known.
        """
        self._services = services
        self._audio = audio
        self._audio_endpoint = audio_endpoint
        self._tasks = tasks
        self._admits_hello = admits_hello
        self._firmware = firmware
        self._link: Link | None = None
        self._link_now = lambda: self._link  # one for all devices: thousands may be idle
        self._devices: dict[str, Device] = {}
        self._closing = False
        self.hellos = 0
        self.hellos_refused = 0
        self.stale_messages = 0

    def attach(self, link: Link) -> None:
        """Where answers go; before the link accepts its first device."""
        self._link = link

    @property
    def devices(self) -> list[Device]:
        return list(self._devices.values())

    @property
    def sessions(self) -> list[Session]:
        return [device.session for device in self._devices.values() if device.session is not None]

    def receptions(self) -> dict[str, ReceptionReport]:
        """How the audio of each device arrives; keyed by Device-Id."""
        now = asyncio.get_running_loop().time()
        return {device_id: device.ledger.report(now) for device_id, device in self._devices.items()}

    def statistics(self, device_id: str) -> dict[str, Any] | None:
        """The same for one device, ready for JSON; None when this process has not seen it."""
        device = self._devices.get(device_id)
        return device.ledger.report(asyncio.get_running_loop().time()).as_json() if device is not None else None

    # -- the link ----------------------------------------------------------------------------------------------------------
    def device_connected(self, identity: DeviceIdentity, peer_ip: str) -> None:
        """A device is (again) connected: a session under way goes on."""
        device = self._device(identity)
        device.identity, device.mqtt.peer_ip, device.connected = identity, peer_ip, True
        if device.grace is not None:
            device.grace.cancel()
            device.grace = None
        if device.session is not None:
            device.session.resume()
        elif device.unheard_goodbye:
            device.mqtt.send(Goodbye(session_id=device.unheard_goodbye))
        device.unheard_goodbye = ""
        log.info("device connected", device=identity.device_id, peer=peer_ip, resumed=device.session is not None)

    def messages_missed(self, identity: DeviceIdentity, messages: Sequence[Outbound]) -> None:
        """What was said over a connection that is gone, and perhaps not heard: put right when the device is back."""
        device = self._devices.get(identity.device_id)
        if device is None or _over_websocket(device):
            return
        for message in messages:
            if isinstance(message, Goodbye):
                device.unheard_goodbye = message.session_id
        if device.session is not None:
            device.session.missed(messages)

    def device_disconnected(self, identity: DeviceIdentity) -> None:
        """The control connection is gone; the session waits for it, for as long as the settings say."""
        device = self._devices.get(identity.device_id)
        if device is None or not device.connected or _over_websocket(device):
            return
        device.connected = False
        device.mcp.disconnected()
        if device.session is not None:  # the link has told that it is gone, and why
            grace_s = self._services.settings.session.grace_s
            log.info("the session waits for its device", device=identity.device_id, session=device.session.session_id[:8], for_s=grace_s)
            device.grace = asyncio.get_running_loop().call_later(grace_s, self._grace_over, device)

    def device_moved(self, device_id: str) -> str:
        """The device has connected to another process: its session here ends, without a word to the device.

        Returns the id of that session, which the device goes on to believe in; empty when there was none.
        """
        device = self._devices.get(device_id)
        if device is None or device.session is None:
            return ""
        device.session.end("the device has connected to another worker", goodbye=False)
        return device.session.session_id

    def session_gone(self, device_id: str, session_id: str) -> None:
        """The device has come from another process, where this session of it ended: a goodbye resets it.

        Unless it has opened a new one here meanwhile: then it knows.
        """
        device = self._devices.get(device_id)
        if device is not None and device.session is None:
            device.mqtt.send(Goodbye(session_id=session_id))

    def device_message(self, identity: DeviceIdentity, message: Inbound) -> None:
        device = self._device(identity)
        self._received(device, message, via=device.mqtt)

    # -- transports with a connection of their own -------------------------------------------------------------------------
    def transport_message(self, identity: DeviceIdentity, message: Inbound, *, via: Transport) -> None:
        self._received(self._device(identity), message, via=via)

    def transport_closed(self, identity: DeviceIdentity, *, via: Transport) -> None:
        """A session over this connection ends at once: the device has noticed, too, and is idle."""
        device = self._devices.get(identity.device_id)
        if device is None or device.via is not via:
            return
        device.mcp.disconnected()
        if device.session is not None:
            device.session.end("the connection was closed", goodbye=False)

    # -- messages ----------------------------------------------------------------------------------------------------------
    def _received(self, device: Device, message: Inbound, *, via: Transport) -> None:
        match message:
            case Hello():
                self._hello(device, message, via)
            case Mcp(payload=payload):
                device.mcp.feed(payload)
            case Goodbye(session_id=session_id):
                if device.session is not None and session_id in {"", device.session.session_id}:
                    device.session.end("the device said goodbye", goodbye=False)
            case Listen() | Abort() | Iot():
                self._to_session(device, message, via)

    def _grace_over(self, device: Device) -> None:
        device.grace = None
        if device.session is not None:
            device.session.end("the control connection did not come back", goodbye=False)

    def _to_session(self, device: Device, message: Listen | Abort | Iot, via: Transport) -> None:
        session = device.session
        if session is not None and not session.ended and message.session_id in {"", session.session_id}:
            session.handle(message)
            return
        if isinstance(message, Iot):
            return  # announces things: no sign of a device that believes itself in a session
        # The device believes in a session that is gone: a goodbye with that id resets it.
        self.stale_messages += 1
        log.info("message of an unknown session", device=device.identity.device_id, type=type(message).__name__.lower())
        via.send(Goodbye(session_id=message.session_id))

    def revoke(self, device_id: str) -> None:
        """The device's credentials are valid no longer: its session ends at once, and its connection is closed."""
        self._cut_off(self._devices.get(device_id), "its credentials were withdrawn")
        if self._link is not None:
            self._link.disconnect(device_id)

    def hand_over(self, device_id: str) -> None:
        """Another process answers the device on its MQTT connection from now on: its session on it ends with a goodbye."""
        device = self._devices.get(device_id)
        if device is not None and not _over_websocket(device):
            self._cut_off(device, "another worker answers the device now")
        if self._link is not None:
            self._link.disconnect(device_id)

    def _cut_off(self, device: Device | None, reason: str) -> None:
        if device is None or device.session is None:
            return
        self._send(device, Goodbye(session_id=device.session.session_id))  # now: there is no connection later
        device.session.end(reason, goodbye=False)
        device.session.channel.close()

    def forget(self, device_id: str) -> None:
        """The device is known no longer, after :meth:`revoke`: nothing is remembered of it."""
        device = self._devices.pop(device_id, None)
        if device is not None and device.grace is not None:
            device.grace.cancel()
            device.grace = None

    # -- hello -------------------------------------------------------------------------------------------------------------
    def _hello(self, device: Device, hello: Hello, via: Transport) -> None:
        """Open a session: audio is registered first, the reply goes out at once, tools are asked for afterwards."""
        refusal = "the server is stopping" if self._closing else via.refusal(hello)
        if refusal:
            self.hellos_refused += 1
            facts = {"transport": hello.transport, "version": hello.version}
            log.warning("hello refused", device=device.identity.device_id, reason=refusal, **facts)
            return
        if not self._admits_hello(device.identity.device_id, via.peer_ip):
            self.hellos_refused += 1
            return  # the device waits 10 s for the answer, which is what is wanted
        self.hellos += 1
        self._replace_session(device, via)
        device.unheard_goodbye = ""
        uplink_frame_ms = hello.audio_params.frame_duration if hello.audio_params.frame_duration in UPLINK_FRAMES_MS else 60
        things = None if hello.features.mcp else Things()
        opened = via.open_audio(hello, frame_ms=uplink_frame_ms)
        audio = _downlink_format(self._services.settings.audio, uplink_frame_ms)
        session = device.session = Session(
            session_id=secrets.token_hex(16),
            device_id=device.identity.device_id,
            channel=opened.link,
            uplink_frame_ms=uplink_frame_ms,
            audio=audio,
            server_aec=hello.features.aec,
            toolbox=self._toolbox(device, things),
            things=things,
            history=self._history(device),
            services=self._services,
            firmware=self._firmware(device.identity.device_id),
            send=via.send,
            prepare=device.mcp.initialize if hello.features.mcp else None,
            audio_address=f"{opened.udp.server}:{opened.udp.port}" if opened.udp else "",
        )
        device.ledger.open(session.line)
        device.via, device.connected = via, True
        via.send(
            HelloReply(
                session_id=session.session_id,
                audio_params=AudioParams(sample_rate=audio.sample_rate_hz, frame_duration=audio.frame_ms),
                udp=opened.udp or UNSET,
                version=opened.version,
                transport=via.name,
            )
        )
        self._tasks.create_task(self._run(device, session, via), name=f"session {session.session_id[:8]}")

    def _replace_session(self, device: Device, via: Transport) -> None:
        """The newest hello wins. Who is left on another connection is told, with the old session's id."""
        if device.session is None:
            return
        device.session.end("replaced by a new hello", goodbye=device.via is not via)
        device.session.channel.close()
        if device.via is not via:
            device.mcp.disconnected()
        self._forget(device, device.session)

    def _toolbox(self, device: Device, things: Things | None) -> ToolBox:
        if things is None:
            return ToolBox(mcp=device.mcp)

        def send(commands: list[dict[str, object]]) -> bool:
            session_id = device.session.session_id if device.session is not None else ""
            return self._send(device, IotCommands(session_id=session_id, commands=commands))

        return ToolBox(things=things, send_commands=send)

    def _history(self, device: Device) -> History:
        if asyncio.get_running_loop().time() - device.last_session_end > HISTORY_KEPT_S:
            device.history.clear()
        return device.history

    async def _run(self, device: Device, session: Session, via: Transport) -> None:
        try:
            await session.run()
        except Exception as error:
            log.exception("a session has failed", device=device.identity.device_id, error=repr(error))
            via.send(Goodbye(session_id=session.session_id))
        finally:
            self._forget(device, session)

    def _forget(self, device: Device, session: Session) -> None:
        if device.session is session:
            if _over_websocket(device):
                device.connected = self._link is not None and self._link.connected(device.identity.device_id)
            device.session = device.via = None
            device.ledger.close()
            device.last_audio_path = session.audio_path
            device.last_session_end = asyncio.get_running_loop().time()
            if device.grace is not None:
                device.grace.cancel()
                device.grace = None

    # -- helpers of the above ----------------------------------------------------------------------------------------------
    def _device(self, identity: DeviceIdentity) -> Device:
        device = self._devices.get(identity.device_id)
        if device is None:
            settings = self._services.settings.session
            device = self._devices[identity.device_id] = Device(
                identity=identity,
                mcp=DeviceMcp(partial(self._send_mcp, identity.device_id), call_timeout_s=settings.tool_timeout_s),
                history=History(turns=settings.history_turns),
                mqtt=MqttUdp(identity.device_id, link=self._link_now, audio=self._audio, endpoint=self._audio_endpoint),
            )
        return device

    def _send_mcp(self, device_id: str, payload: dict[str, object]) -> bool:
        device = self._devices.get(device_id)
        if device is None:
            return False  # forgotten meanwhile
        session_id = device.session.session_id if device.session is not None else ""
        return self._send(device, McpOut(session_id=session_id, payload=payload))

    def _send(self, device: Device, message: Outbound) -> bool:
        """To the device by the way it uses now."""
        return (device.via or device.mqtt).send(message)

    # -- the end -----------------------------------------------------------------------------------------------------------
    def end_all(self, reason: str) -> None:
        """Say goodbye to every device in a session; no new session is opened afterwards."""
        self._closing = True
        for session in self.sessions:
            session.end(reason, goodbye=True)


def _downlink_format(audio: Audio, announced_ms: int) -> Audio:
    """The format of the answers: never longer frames than the client sends.

    Firmware decodes what the reply announces; py-xiaozhi does not read that, and has room for one frame of its own length.
    """
    return audio if audio.frame_ms <= announced_ms else audio.model_copy(update={"frame_ms": announced_ms})


def _over_websocket(device: Device) -> bool:
    return device.via is not None and device.via is not device.mqtt
