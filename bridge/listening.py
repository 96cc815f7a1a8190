"""Where the process listens: ports chosen and bound, the MQTT front plain and with TLS."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog

from bridge.certificate import ServerCertificate
from bridge.errors import OperatorError
from mqtt_control.front import Front
from settings.load import Loaded
from settings.model import Mqtt

log = structlog.get_logger(__name__)

PORTS_TRIED = 50
STOCK_TLS_PORT = 8883


async def bind(loaded: Loaded, path: str, port: int, start: Callable[[int], Awaitable[int]]) -> int:
    """The port that was bound. A default port that is taken moves to the next free one; one that was set must be free."""
    for candidate in range(port, min(port + PORTS_TRIED, 65536)) if port else (0,):
        try:
            bound = await start(candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise OperatorError(f"Cannot listen on {path} {candidate}: {error.strerror or error}.") from error
            if loaded.was_set(path):
                raise OperatorError(
                    f"Port {candidate} ({path}) is in use by another program. "
                    f"Stop that program, or set {path} to another port (0: any free one)."
                ) from error
            continue
        if port and bound != port:
            log.warning("the default port is taken, so another is used", setting=path, taken=port, used=bound)
        return bound
    raise OperatorError(f"No free port from {port} to {port + PORTS_TRIED - 1}: set {path}, 0 means any free one.")


@dataclass(frozen=True, slots=True)
class MqttPorts:
    """Where the front listens; ``told``: the port in OTA answers."""

    plain: int | None
    tls: int | None
    told: int


async def start_front(
    loaded: Loaded,
    front: Front | None,
    certificate: ServerCertificate | None,
    stack: contextlib.AsyncExitStack,
    tasks: asyncio.TaskGroup,
    *,
    shared: bool,
) -> MqttPorts:
    """Listen, plain and with TLS as the settings say; the front closes with ``stack``. Raises OperatorError.

    ``shared``: beside the other workers.
    """
    mqtt, advertised = loaded.tree.mqtt, loaded.tree.advertise.mqtt_port
    plain = tls = None
    if front is None:
        # the port is never handed out: the broker's takes its place
        return MqttPorts(None, None, advertised or loaded.tree.broker.port)
    stack.push_async_callback(front.aclose)
    listen = partial(front.start, host=mqtt.host, reuse_port=shared)
    if mqtt.plain:
        plain = await bind(loaded, "mqtt.port", mqtt.port, lambda port: listen(port=port))
    if certificate is not None:
        context = certificate.context
        tls = await bind(loaded, "mqtt.tls.port", mqtt.tls.port, lambda port: listen(port=port, ssl=context, tasks=tasks))
        tasks.create_task(certificate.watch(), name="certificate watch")
    told = advertised or plain or tls or 0
    if (tls if told == STOCK_TLS_PORT else plain) is None:
        log.warning(
            "stock devices use TLS on port 8883 and on no other: with this port they cannot connect",
            told_port=told,
            tls_port=tls,
            fix="advertise.mqtt_port: 8883 for TLS, any other port for plain MQTT",
        )
    return MqttPorts(plain, tls, told)


def certificate_of(mqtt: Mqtt) -> ServerCertificate | None:
    """The certificate of the settings. Raises OperatorError."""
    tls = mqtt.tls
    if tls.certificate is None and tls.private_key is None and not mqtt.plain:
        raise OperatorError("mqtt.plain is false, but there is no TLS: set mqtt.tls.certificate and mqtt.tls.private_key.")
    if tls.certificate is None and tls.private_key is None:
        return None
    if tls.certificate is None or tls.private_key is None:
        raise OperatorError("mqtt.tls needs both certificate and private_key.")
    return ServerCertificate(tls.certificate, tls.private_key)
