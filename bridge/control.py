"""The ways on which control messages travel, as ``control.mode`` says: the front, the user's broker, or both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from bridge.errors import OperatorError
from bridge.limits import Gate
from mqtt_control.front import Front
from mqtt_control.link import LinkListener
from mqtt_control.links import Links
from ota.broker import BrokerHandOff
from ota.devices import DeviceStore
from ota.manifest import Endpoints, ManifestError
from settings.model import Broker as BrokerOptions
from settings.model import SettingsTree

if TYPE_CHECKING:
    from mqtt_control.broker import Broker

log = structlog.get_logger(__name__)

_LOOPBACK = ("localhost", "127.", "::1")


@dataclass(frozen=True, slots=True)
class Control:
    """``links`` is the one link that sessions see; ``front`` and ``broker`` are there when the mode asks for them."""

    links: Links
    front: Front | None
    broker: Broker | None


def build_control(
    settings: SettingsTree,
    *,
    devices: DeviceStore,
    listener: LinkListener,
    gate: Gate | None = None,
    mine: Callable[[str], bool] = lambda _device_id: True,
) -> Control:
    """The links of these settings, not started yet. ``mine``: whom at the broker this process answers. Raises OperatorError."""
    links = Links(listener)
    front = broker = None
    mode = settings.control.mode
    if mode != "broker":
        route = links.route()
        front = route.link = Front(settings.mqtt, authenticate=devices.authenticate, listener=route, gate=gate)
    if mode != "front":
        from mqtt_control.broker import Broker, BrokerTlsError

        route = links.route()
        try:
            broker = route.link = Broker(
                settings.broker,
                authorise=devices.approved,
                listener=route,
                max_message_bytes=settings.mqtt.max_packet_bytes,
                mine=mine,
            )
        except BrokerTlsError as error:
            raise OperatorError(str(error)) from error
    return Control(links, front, broker)


async def start_broker(broker: Broker, tasks: asyncio.TaskGroup, *, wait_s: float = 0.0) -> None:
    """Let the link to the broker run in ``tasks``. Devices can be served once it is connected; the log says when.

    Returns then, or after ``wait_s``: a broker that is away is waited for no longer.
    """
    tasks.create_task(broker.run(), name="broker")
    if wait_s:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await broker.online.wait()


def hand_off(settings: SettingsTree, *, host: str) -> BrokerHandOff | None:
    """What devices are told of the broker, None when they are sent to the front. ``host`` is this machine's address.

    Raises OperatorError for an address that devices cannot use.
    """
    mode, options = settings.control.mode, settings.broker
    if mode == "front" or (mode == "both" and not options.devices):
        return None
    only = options.devices if mode == "both" else ()
    advertised = options.advertise_host or (host if options.host.startswith(_LOOPBACK) else options.host)
    return BrokerHandOff(
        host=_usable(options, advertised), port=options.advertise_port or options.port, topic_root=options.topic_root, only=only
    )


def _usable(options: BrokerOptions, host: str) -> str:
    try:
        Endpoints(mqtt_host=host, mqtt_port=options.advertise_port or options.port, http_base="")
    except ManifestError as error:
        raise OperatorError(f"broker: {error}. Set broker.advertise_host.") from error
    return host
