"""The address where devices open their WebSocket: who is let in, and what arrives.

========================= ==========================================================================
``/xiaozhi/v1/``          ``Authorization: Bearer <token>``, ``Device-Id``, ``Client-Id``; 401 without.
                          ``Protocol-Version`` names the binary version (device protocol §13)
========================= ==========================================================================

Refused before a WebSocket is opened, with ``Retry-After``: 403 to an address that is turned away for its wrong tokens, 429 to one
or to a device that comes too often (:mod:`bridge.limits`, the same count as for MQTT), 503 when there are too many connections.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final

import structlog
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from bridge.limits import Gate
from bridge.scope import task_scope
from bridge.transport import TransportListener
from bridge.websocket.connection import POLICY_VIOLATION, Connection
from bridge.websocket.framing import FrameVersion, is_frame_version
from bridge.websocket.stats import WebSocketStats
from mqtt_control.front import COST_BYTES
from mqtt_control.identity import NO_CLIENT_ID, DeviceIdentity, IdentityError, parse_mac
from mqtt_control.messages import Hello, MessageError, parse
from ota.token_bucket import TokenBuckets, source_of

log = structlog.get_logger(__name__)

PATH: Final = "/xiaozhi/v1/"
MESSAGE_TOO_BIG: Final = 1009
"""RFC 6455 §7.4.1."""

RETRY_AFTER_S: Final = 10
"""What is told to whoever comes too often, or when there are too many; as long as devices wait by themselves."""
MESSAGES_AT_ONCE: Final = 64
"""So many messages of one connection are handled before others have their turn."""

Authenticate = Callable[[DeviceIdentity, str], bool]
"""Whether this token is the device's."""


class WebSocketEndpoint:
    """Serves the route of :meth:`routes`. One connection is one call of :meth:`serve`, in the HTTP server's task."""

    def __init__(
        self,
        *,
        authenticate: Authenticate,
        listener: TransportListener,
        gate: Gate,
        hello_timeout_s: float = 10.0,
        max_connections: int = 2000,
    ) -> None:
        self.stats = WebSocketStats()
        self._gate = gate
        self._max_connections = max_connections
        self._authenticate = authenticate
        self._listener = listener
        self._hello_timeout_s = hello_timeout_s
        self._connections: dict[str, list[Connection]] = {}
        self._logged = TokenBuckets(rate_per_s=1 / 30, burst=5)

    def routes(self) -> list[BaseRoute]:
        """For the HTTP application; devices may leave out the last slash."""
        return [WebSocketRoute(path, self.serve) for path in (PATH, PATH.rstrip("/"))]

    def disconnect(self, device_id: str) -> None:
        """The device's access has ended: close what it has open."""
        for connection in self._connections.get(device_id, ()):
            connection.close(POLICY_VIOLATION)

    async def serve(self, websocket: WebSocket) -> None:
        """One connection, from its request to its end. Cancelled, it ends the session that uses it."""
        identity = self._judge(websocket)
        if isinstance(identity, Response):
            await websocket.send_denial_response(identity)
            return
        self.stats.connections_open += 1  # from here on, so that no crowd slips in while the first ones are being answered
        try:
            await self._serve(websocket, identity)
        finally:
            self.stats.connections_open -= 1

    async def _serve(self, websocket: WebSocket, identity: DeviceIdentity) -> None:
        await websocket.accept()
        connection = Connection(websocket, identity=identity, announced=_announced_version(websocket), stats=self.stats)
        self._entered(connection)
        log.info("device connected", device=identity.device_id, peer=connection.peer_ip, transport="websocket")
        try:
            async with task_scope() as tasks:
                tasks.create_task(connection.write(), name=f"websocket out {identity.device_id}")
                tasks.create_task(self._read(websocket, connection), name=f"websocket in {identity.device_id}")
                await connection.over.wait()
        finally:
            reason = "closed by the server" if connection.closing else "closed by the device, or lost"
            self._left(connection)
            log.info("device disconnected", device=identity.device_id, reason=reason, transport="websocket")

    # -- who is there ------------------------------------------------------------------------------------------------------
    def _judge(self, request: HTTPConnection) -> DeviceIdentity | Response:
        """The device that is let in, or the answer to who is not."""
        peer_ip = request.client.host if request.client else ""
        if self.stats.connections_open >= self._max_connections:
            self.stats.connections_refused_full += 1
            return _refusal(503, "there are too many connections")
        if shut_out_s := self._gate.turned_away_s(peer_ip):
            self.stats.connections_limited += 1
            return _refusal(403, "too many wrong tokens came from this address", retry_after_s=shut_out_s)
        if not self._gate.admits(peer_ip):
            self.stats.connections_limited += 1
            return _refusal(429, "too many connections came from this address")
        identity = self._let_in(request)
        if identity is None:
            self._gate.login_failed(peer_ip)
            return JSONResponse({"error": "the bearer token is missing or wrong"}, 401, headers={"WWW-Authenticate": "Bearer"})
        if not self._gate.admits_device(identity.device_id, peer_ip):
            self.stats.connections_limited += 1
            return _refusal(429, "this device connects too often")
        return identity

    def _let_in(self, request: HTTPConnection) -> DeviceIdentity | None:
        """The device that the headers prove. The same work is done whoever asks."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            identity = DeviceIdentity(parse_mac(request.headers.get("device-id", "")), request.headers.get("client-id", NO_CLIENT_ID))
        except IdentityError:
            identity = None
        if identity is not None and scheme.lower() == "bearer" and self._authenticate(identity, token.strip()):
            return identity
        self.stats.unauthorised += 1
        source = source_of(request.client.host) if request.client else "unknown"
        if self._logged.take(source, now=asyncio.get_running_loop().time()):
            log.warning("connection refused, the token is missing or wrong", device=identity and identity.device_id, source=source)
        return None

    def _entered(self, connection: Connection) -> None:
        """A device has one session; connections on which it has not begun one give way to its newest."""
        others = self._connections.setdefault(connection.identity.device_id, [])
        for older in others:
            if not older.in_session:
                older.close()
        others.append(connection)
        self.stats.connections_opened += 1

    def _left(self, connection: Connection) -> None:
        device_id = connection.identity.device_id
        others = self._connections[device_id]
        others.remove(connection)
        if not others:
            del self._connections[device_id]
        self._listener.transport_closed(connection.identity, via=connection)
        connection.lost()

    # -- what arrives ------------------------------------------------------------------------------------------------------
    async def _read(self, websocket: WebSocket, connection: Connection) -> None:
        try:
            async with asyncio.timeout(self._hello_timeout_s) as patience:
                taken = 0
                while (event := await websocket.receive())["type"] == "websocket.receive":
                    self._received(connection, event)
                    if connection.in_session:
                        patience.reschedule(None)
                    taken += 1
                    await self._take_turns(connection, event, taken)
        except TimeoutError:
            self.stats.hello_timeouts += 1
            log.warning("connection closed, no hello came", device=connection.identity.device_id)
            connection.close(POLICY_VIOLATION)
            return
        if event.get("code") == MESSAGE_TOO_BIG:
            self.stats.oversize += 1
            log.warning("connection closed, a message was too large", device=connection.identity.device_id)
        connection.over.set()

    async def _take_turns(self, connection: Connection, event: Any, taken: int) -> None:
        """Others come in between, and who has said too much waits: what it sends meanwhile waits in its own socket."""
        size = len(event.get("text") or event.get("bytes") or "")
        wait_s = self._gate.pace(connection.identity.device_id, connection.peer_ip, 1 + size // COST_BYTES)
        if wait_s > 0:
            self.stats.throttled += 1
            connection.fault("the device sends too much, it has to wait", f"{wait_s:.2f} s")
        if wait_s > 0 or taken % MESSAGES_AT_ONCE == 0:
            await asyncio.sleep(wait_s)

    def _received(self, connection: Connection, event: Any) -> None:
        text = event.get("text")
        if text is None:
            connection.binary(event["bytes"])
            return
        try:
            message = parse(text.encode())
        except MessageError as error:
            self.stats.bad_messages += 1
            connection.fault("message ignored", str(error))
            return
        self.stats.messages_in += 1
        if isinstance(message, Hello):
            connection.hello_arrived()
        self._listener.transport_message(connection.identity, message, via=connection)
        if isinstance(message, Hello) and not connection.in_session:
            connection.close(POLICY_VIOLATION)  # it was refused, and nothing else can follow


def _refusal(status: int, reason: str, *, retry_after_s: float = RETRY_AFTER_S) -> Response:
    return JSONResponse({"error": reason}, status, headers={"Retry-After": str(math.ceil(retry_after_s))})


def _announced_version(request: HTTPConnection) -> FrameVersion | None:
    """``Protocol-Version``, when it is one."""
    text = request.headers.get("protocol-version", "").strip()
    number = int(text) if text.isascii() and text.isdigit() and len(text) == 1 else 0
    return number if is_frame_version(number) else None
