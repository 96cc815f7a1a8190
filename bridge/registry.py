"""The devices that are known to this process, and the one session each may have.

Listens to the MQTT link. A hello opens a session (and replaces an older one of the same device); everything else goes
to the session it names. The session belongs to the authenticated device, not to a connection: it outlives an MQTT drop.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from bridge.history import History
from bridge.reception import Ledger, ReceptionReport
from bridge.session import Services, Session
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
    UdpParams,
)
from udp_audio.cipher import AEAD, Encryption
from udp_audio.server import AudioServer

log = structlog.get_logger(__name__)

HISTORY_KEPT_S = 600.0
"""A conversation goes on when the next session begins within this time."""
UPLINK_FRAMES_MS = (20, 40, 60)


@dataclass(frozen=True, slots=True)
class AudioEndpoint:
    """Where devices send their audio."""

    host: str
    port: int


@dataclass(slots=True)
class Device:
    """What the process remembers of one device between connections and sessions."""

    identity: DeviceIdentity
    mcp: DeviceMcp
    history: History
    peer_ip: str = ""
    connected: bool = False
    session: Session | None = None
    last_session_end: float = 0.0
    grace: asyncio.TimerHandle | None = field(default=None, repr=False)
    ledger: Ledger = field(default_factory=Ledger, repr=False)


class Registry:
    """Implements :class:`mqtt_control.link.LinkListener`. Sessions run in ``tasks``."""

    def __init__(
        self,
        *,
        services: Services,
        audio: AudioServer,
        audio_endpoint: Callable[[], AudioEndpoint],
        tasks: asyncio.TaskGroup,
        firmware: Callable[[str], str] = lambda _: "",
    ) -> None:
        """``firmware`` gives the version that a device told at its check-version, by Device-Id; empty when it is not known."""
        self._services = services
        self._audio = audio
        self._audio_endpoint = audio_endpoint
        self._tasks = tasks
        self._firmware = firmware
        self._link: Link | None = None
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

    def reception(self, device_id: str) -> ReceptionReport | None:
        """The same for one device; None when this process has not seen it."""
        device = self._devices.get(device_id)
        return device.ledger.report(asyncio.get_running_loop().time()) if device is not None else None

    # -- the link ----------------------------------------------------------------------------------------------------------
    def device_connected(self, identity: DeviceIdentity, peer_ip: str) -> None:
        """A device is (again) connected: a session under way goes on."""
        device = self._device(identity)
        device.identity, device.peer_ip, device.connected = identity, peer_ip, True
        if device.grace is not None:
            device.grace.cancel()
            device.grace = None
        if device.session is not None:
            device.session.resume()
        log.info("device connected", device=identity.device_id, peer=peer_ip, resumed=device.session is not None)

    def device_disconnected(self, identity: DeviceIdentity) -> None:
        """The control connection is gone; the session waits for it, for as long as the settings say."""
        device = self._devices.get(identity.device_id)
        if device is None or not device.connected:
            return
        device.connected = False
        device.mcp.disconnected()
        log.info("device disconnected", device=identity.device_id, in_session=device.session is not None)
        if device.session is not None:
            device.grace = asyncio.get_running_loop().call_later(self._services.settings.session.grace_s, self._grace_over, device)

    def device_message(self, identity: DeviceIdentity, message: Inbound) -> None:
        device = self._device(identity)
        match message:
            case Hello():
                self._hello(device, message)
            case Mcp(payload=payload):
                device.mcp.feed(payload)
            case Goodbye(session_id=session_id):
                if device.session is not None and session_id in {"", device.session.session_id}:
                    device.session.end("the device said goodbye", goodbye=False)
            case Listen() | Abort() | Iot():
                self._to_session(device, message)

    def _grace_over(self, device: Device) -> None:
        device.grace = None
        if device.session is not None:
            device.session.end("the control connection did not come back", goodbye=False)

    def _to_session(self, device: Device, message: Listen | Abort | Iot) -> None:
        session = device.session
        if session is not None and not session.ended and message.session_id in {"", session.session_id}:
            session.handle(message)
            return
        if isinstance(message, Iot):
            return  # announces things: no sign of a device that believes itself in a session
        # The device believes in a session that is gone: a goodbye with that id resets it.
        self.stale_messages += 1
        log.info("message of an unknown session", device=device.identity.device_id)
        self._send(device, Goodbye(session_id=message.session_id))

    # -- hello -------------------------------------------------------------------------------------------------------------
    def _hello(self, device: Device, hello: Hello) -> None:
        """Open a session: audio is registered first, the reply goes out at once, tools are asked for afterwards."""
        if self._closing or hello.transport != "udp" or hello.version != 3:
            self.hellos_refused += 1
            log.warning("hello refused", device=device.identity.device_id, transport=hello.transport, version=hello.version)
            return
        self.hellos += 1
        if device.session is not None:
            device.session.end("replaced by a new hello", goodbye=False)
            device.session.channel.close()
            self._forget(device, device.session)
        uplink_frame_ms = hello.audio_params.frame_duration if hello.audio_params.frame_duration in UPLINK_FRAMES_MS else 60
        things = None if hello.features.mcp else Things()
        encryption: Encryption = next((one for one in AEAD if one in hello.features.aead), "aes-128-ctr")
        channel = self._audio.open(frame_ms=uplink_frame_ms, peer_ip=device.peer_ip, encryption=encryption)
        session = device.session = Session(
            session_id=secrets.token_hex(16),
            device_id=device.identity.device_id,
            channel=channel,
            uplink_frame_ms=uplink_frame_ms,
            server_aec=hello.features.aec,
            toolbox=self._toolbox(device, things),
            things=things,
            history=self._history(device),
            services=self._services,
            firmware=self._firmware(device.identity.device_id),
            send=lambda message: self._send(device, message),
            prepare=device.mcp.initialize if hello.features.mcp else None,
        )
        device.ledger.open(session.line)
        endpoint, audio = self._audio_endpoint(), self._services.settings.audio
        self._send(
            device,
            HelloReply(
                session_id=session.session_id,
                audio_params=AudioParams(sample_rate=audio.sample_rate_hz, frame_duration=audio.frame_ms),
                udp=UdpParams(
                    server=endpoint.host,
                    port=endpoint.port,
                    key=channel.key.hex(),
                    nonce=channel.nonce.hex(),
                    encryption=encryption,
                ),
            ),
        )
        self._tasks.create_task(self._run(device, session), name=f"session {session.session_id[:8]}")

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

    async def _run(self, device: Device, session: Session) -> None:
        try:
            await session.run()
        except Exception as error:
            log.exception("a session has failed", device=device.identity.device_id, error=repr(error))
            self._send(device, Goodbye(session_id=session.session_id))
        finally:
            self._forget(device, session)

    def _forget(self, device: Device, session: Session) -> None:
        if device.session is session:
            device.session = None
            device.ledger.close()
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
                mcp=DeviceMcp(lambda payload: self._send_mcp(identity.device_id, payload), call_timeout_s=settings.tool_timeout_s),
                history=History(turns=settings.history_turns),
            )
        return device

    def _send_mcp(self, device_id: str, payload: dict[str, object]) -> bool:
        device = self._devices[device_id]
        session_id = device.session.session_id if device.session is not None else ""
        return self._send(device, McpOut(session_id=session_id, payload=payload))

    def _send(self, device: Device, message: Outbound) -> bool:
        return self._link is not None and self._link.send(device.identity.device_id, message)

    # -- the end -----------------------------------------------------------------------------------------------------------
    def end_all(self, reason: str) -> None:
        """Say goodbye to every device in a session; no new session is opened afterwards."""
        self._closing = True
        for session in self.sessions:
            session.end(reason, goodbye=True)
