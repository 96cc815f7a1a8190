"""The MQTT side: paho on the event loop, used as the firmware uses esp-mqtt. MQTT 3.1.1, clean session, QoS 0, no SUBSCRIBE.

paho delivers PUBLISH packets that nobody subscribed to, as esp-mqtt does; that it is someone else's code is the point.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from bridge.device.errors import MqttError
from bridge.device.ota_client import MqttSettings

log = structlog.get_logger(__name__)

_HOUSEKEEPING_S: Final = 1.0
CONNECT_TIMEOUT_S: Final = 10.0


@dataclass(slots=True)
class LinkStats:
    connects: int = 0
    losses: int = 0
    sent: int = 0
    received: int = 0


class ControlLink:
    """Keeps one MQTT connection. :meth:`connect` makes the first one, :meth:`run` makes the others."""

    def __init__(
        self,
        settings: MqttSettings,
        *,
        on_message: Callable[[bytes], None],
        reconnect_s: float = 10.0,
        subscribes_qos: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._on_message = on_message
        self._reconnect_s = reconnect_s
        self._subscribes_qos = subscribes_qos
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._client: paho.Client | None = None
        self._connack: asyncio.Future[ReasonCode] | None = None
        self._housekeeping: asyncio.TimerHandle | None = None
        self._lost = asyncio.Event()
        self._hurry = asyncio.Event()
        self._connecting = asyncio.Lock()
        self.connected = asyncio.Event()
        self.stats = LinkStats()

    async def connect(self) -> None:
        """Connect now unless connected. Raises :class:`MqttError`; cancellation leaves no connection."""
        async with self._connecting:
            if self.connected.is_set():
                return
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._attempt()
            except TimeoutError:
                raise self._fault("did not answer within 10 s") from None
            finally:
                if not self.connected.is_set():
                    self._discard()

    async def run(self) -> None:
        """Reconnect for ever, ``reconnect_s`` after each loss or failure. Cancel to end; then call :meth:`close`."""
        while True:
            await self._lost.wait()
            self._hurry.clear()
            try:
                async with asyncio.timeout(self._reconnect_s):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            try:
                await self.connect()
            except MqttError as error:
                log.info("The simulated device could not reconnect", reason=str(error))
                continue

    async def reconnect_now(self) -> None:
        """What opening a channel does when the connection is gone. Raises :class:`MqttError`."""
        await self.connect()
        self._hurry.set()

    def publish(self, text: str) -> None:
        """Send one message, QoS 0. Raises :class:`MqttError` when there is no connection."""
        client = self._client
        if client is None or not self.connected.is_set():
            raise MqttError("The message could not be sent: the MQTT connection is down.")
        if client.publish(self._settings.publish_topic, text.encode(), qos=0).rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise MqttError("The message could not be sent: the MQTT connection has just failed.")
        self.stats.sent += 1
        self._want_write(client)

    def drop(self) -> None:
        """Lose the connection without DISCONNECT, as a device that leaves the radio range does."""
        if self._client is not None:
            self._discard()
            self._note_loss()

    def close(self) -> None:
        """Say DISCONNECT and let go; :meth:`connect` may be used again."""
        client = self._client
        self.connected.clear()
        self._lost.clear()
        if client is not None:
            client.on_disconnect = None
            client.disconnect()
        self._discard()

    async def _attempt(self) -> None:
        client = self._make_client()
        self._client = client
        self._connack = self._loop.create_future()
        settings = self._settings
        # paho's TCP connect blocks. If this is cancelled the thread still ends within paho's own time-out, and the
        # orphaned client closes its socket when it is collected.
        try:
            await self._loop.run_in_executor(None, client.connect, settings.host, settings.port, settings.keepalive_s)
        except ssl.SSLError as error:
            raise self._fault(f"failed the TLS handshake ({error.reason}); devices verify against public CAs") from error
        except OSError as error:
            raise self._fault(f"cannot be reached ({error.strerror or error})") from error
        if client is not self._client or client.socket() is None:
            raise self._fault("closed the connection at once")
        # only now: before, they would have been called in the connecting thread
        client.on_connect = self._connack_arrived
        client.on_message = self._message_arrived
        client.on_disconnect = self._disconnected
        client.on_socket_close = self._socket_closes
        self._loop.add_reader(self._socket(client), self._readable, client)
        self._want_write(client)
        self._readable(client)
        reason = await self._connack
        if reason.is_failure:
            raise self._fault(f"refused the credentials of the OTA answer ({reason})")
        self._housekeeping = self._loop.call_later(_HOUSEKEEPING_S, self._keep_alive)
        self._lost.clear()
        self.connected.set()
        self.stats.connects += 1
        if self._subscribes_qos is not None and self._settings.subscribe_topic not in {"", "null"}:
            client.subscribe(self._settings.subscribe_topic, qos=self._subscribes_qos)
            self._want_write(client)

    def _make_client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._settings.client_id,
            clean_session=True,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.username_pw_set(self._settings.username, self._settings.password)
        if self._settings.tls:
            client.tls_set_context(self._tls or ssl.create_default_context())
        return client

    def _connack_arrived(self, _client: paho.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object) -> None:
        if self._connack is not None and not self._connack.done():
            self._connack.set_result(reason)

    def _message_arrived(self, client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        if client is self._client:
            self.stats.received += 1
            self._on_message(bytes(message.payload))

    def _disconnected(self, client: paho.Client, *_: Any) -> None:
        if client is not self._client:
            return
        if self._connack is not None and not self._connack.done():
            self._connack.set_exception(self._fault("closed the connection before it accepted it"))
        elif self.connected.is_set():
            self._discard()
            self._note_loss()

    def _note_loss(self) -> None:
        self.connected.clear()
        self.stats.losses += 1
        self._lost.set()

    def _discard(self) -> None:
        """Forget the client. Its socket closes at once, without DISCONNECT."""
        client, self._client = self._client, None
        self.connected.clear()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            self._housekeeping = None
        sock = client.socket() if client is not None else None
        if client is not None and sock is not None:
            self._socket_closes(client, None, sock)
            client.on_socket_close = None
            client.on_disconnect = None
            sock.close()

    def _socket_closes(self, _client: paho.Client, _userdata: object, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.remove_reader(sock)
            self._loop.remove_writer(sock)

    def _readable(self, client: paho.Client) -> None:
        client.loop_read()
        sock = client.socket()
        while isinstance(sock, ssl.SSLSocket) and sock.pending() and client.socket() is sock:
            client.loop_read()  # TLS has decrypted more than one packet: the descriptor will not wake us for it
        self._want_write(client)

    def _want_write(self, client: paho.Client) -> None:
        if client is self._client and client.want_write() and client.socket() is not None:
            self._loop.add_writer(self._socket(client), self._writable, client)

    def _writable(self, client: paho.Client) -> None:
        client.loop_write()
        sock = client.socket()
        if sock is not None and not client.want_write():
            self._loop.remove_writer(self._socket(client))

    def _keep_alive(self) -> None:
        client = self._client
        if client is None:
            return
        client.loop_misc()
        if client is self._client:
            self._want_write(client)
            self._housekeeping = self._loop.call_later(_HOUSEKEEPING_S, self._keep_alive)

    @staticmethod
    def _socket(client: paho.Client) -> Any:
        return client.socket()

    def _fault(self, clause: str) -> MqttError:
        return MqttError(f"The MQTT endpoint {self._settings.host}:{self._settings.port} {clause}.")
