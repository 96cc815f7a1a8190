"""The composition root: builds everything from the settings, serves, and takes it down again.

Order: models found, audio socket, MQTT front, HTTP; only then is the process ready. Engines are loaded afterwards, in
their own threads, so that a device can connect at once and the first turn is like the later ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import tzinfo
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog

from bridge.address import AdvertisedHost
from bridge.admin import AdminAccess, admin_token, local_url, write_access
from bridge.audio_path import PathState
from bridge.banner import Facts, banner
from bridge.codec_pool import CodecPool
from bridge.control import Control, build_control, hand_off, start_broker
from bridge.engines import Providers, build_engines, describe
from bridge.errors import OperatorError
from bridge.limits import Gate
from bridge.listening import bind, certificate_of, start_front
from bridge.observe import Metrics
from bridge.prompt import system_prompt
from bridge.reception import ReceptionCollector
from bridge.registry import Registry
from bridge.release import release
from bridge.scope import task_scope
from bridge.session import Services
from bridge.skills import Skills
from bridge.transport import AudioEndpoint
from bridge.turn import Engines
from bridge.websocket.endpoint import PATH as WEBSOCKET_PATH
from bridge.websocket.endpoint import WebSocketEndpoint
from bridge.websocket.framing import MAX_MESSAGE_BYTES
from mqtt_control.front import Front
from ota.activation import Activations, Codes
from ota.api import OtaOptions, build_app
from ota.devices import DeviceStore
from ota.downloads import Downloads
from ota.manifest import Endpoints
from ota.server import HttpServer
from ota.shelf import DIRECTORY as FIRMWARE_DIRECTORY
from ota.shelf import FirmwareShelf
from ota.updates import Updates
from providers.models import ModelStore
from settings.load import Loaded
from settings.model import SettingsTree
from udp_audio.opus import require_library
from udp_audio.server import AudioServer

if TYPE_CHECKING:
    from bridge.workers.seat import Seat

log = structlog.get_logger(__name__)

FAREWELL_S = 0.3
BROKER_WAIT_S = 5.0
"""For a worker's connection to the user's broker: with it, the worker takes its share of the devices there."""
CODEC_THREADS = 2


def run(loaded: Loaded) -> int:
    """Serve until SIGINT or SIGTERM. Raises OperatorError with a sentence when it cannot."""
    run_loop(serve(loaded))
    return 0


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end on the quickest event loop that there is."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        asyncio.run(main)
    else:
        uvloop.run(main)


async def serve(
    loaded: Loaded,
    *,
    ready: Callable[[Facts], None] | None = None,
    stop: asyncio.Event | None = None,
    seat: Seat | None = None,
    providers: Callable[[SettingsTree, ModelStore], Providers] | None = None,
) -> None:
    """Serve until ``stop`` is set (by default: until a signal). ``ready`` is called once a device could connect.

    ``seat``: the place of this process among several workers. ``providers`` as in :func:`bridge`.
    """
    stop = stop or asyncio.Event()
    async with bridge(loaded, providers=providers, seat=seat, warmed=_spare_collections) as facts:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError):  # not on the main thread, or not on this system
                loop.add_signal_handler(name, stop.set)
        (ready or announce)(facts)
        await stop.wait()
        log.info("stopping")


def announce(facts: Facts) -> None:
    """The ready line: a page for people on a terminal, one log line for machines."""
    log.info("ready", **facts.as_log())
    print(banner(facts), flush=True)  # noqa: T201 - this is what the operator came for


@asynccontextmanager
async def bridge(
    loaded: Loaded,
    *,
    providers: Callable[[SettingsTree, ModelStore], Providers] | None = None,
    seat: Seat | None = None,
    warmed: Callable[[], None] | None = None,
) -> AsyncIterator[Facts]:
    """The running bridge; leaving the block says goodbye to all devices and closes everything.

    ``providers`` builds the engines; by default those that the settings name. ``seat`` as for :func:`serve`. ``warmed`` is called
    once they are loaded, or have failed to. Raises OperatorError.
    """
    settings = loaded.tree
    _check(settings)
    timezone = _timezone(settings)
    certificate = certificate_of(settings.mqtt)
    _make_directory(settings.data_dir)
    engines = await build_engines(settings, providers)
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as stack:
        services = _services(settings, engines, _codec(stack, alone=seat is None), metrics, timezone)
        stack.push_async_callback(engines.aclose)
        devices, activations = await _open_registry(stack, settings, seat)
        tasks = await stack.enter_async_context(task_scope())
        audio = AudioServer()
        udp_port = await bind(
            loaded,
            "udp.port",
            settings.udp.port,
            lambda port: audio.start(host=settings.udp.host, port=port, receive_buffer_bytes=settings.udp.receive_buffer_bytes),
        )
        stack.push_async_callback(audio.aclose)
        host = AdvertisedHost(settings.advertise.host)
        gate = Gate(settings.limits, now=asyncio.get_running_loop().time)
        registry = Registry(
            services=services,
            audio=audio,
            audio_endpoint=lambda: AudioEndpoint(host.current, settings.advertise.udp_port or udp_port),
            tasks=tasks,
            admits_hello=gate.admits_hello,
            firmware=lambda device_id: known.facts.firmware if (known := devices.get(device_id)) is not None else "",
        )
        listener = seat.listener(registry) if seat else registry
        control = build_control(settings, devices=devices, listener=listener, gate=gate, **({"mine": seat.answers} if seat else {}))
        registry.attach(control.links)
        websocket = WebSocketEndpoint(
            authenticate=devices.authenticate_bearer,
            listener=listener,
            gate=gate,
            hello_timeout_s=settings.websocket.hello_timeout_s,
            max_connections=settings.websocket.max_connections,
        )
        revoke = partial(_revoke, registry, websocket)
        if seat:
            seat.attach(
                registry=registry,
                metrics=metrics,
                revoke=revoke,
                close=partial(_close, control, websocket),
                give_up=partial(_give_up, registry, control),
                catch_up=control.broker.when_caught_up if control.broker else lambda done: done(),
            )
        ports = await start_front(loaded, control.front, certificate, stack, tasks, shared=seat is not None)
        if control.broker is not None:
            await start_broker(control.broker, tasks, wait_s=BROKER_WAIT_S if seat else 0)
            stack.push_async_callback(control.broker.aclose)
        updates = _updates(stack, settings, devices)
        token = admin_token(settings)
        now = _Now(http_port=settings.http.port)
        app = build_app(
            store=devices,
            activations=activations,
            endpoints=lambda: _endpoints(settings, host=host.current, mqtt_port=ports.told, http_port=now.http_port),
            ready=lambda: now.ready,
            metrics=seat.exposition if seat else metrics.exposition,
            device_stats=seat.statistics if seat else registry.statistics,
            options=_ota_options(settings, gate, timezone, admin_token=token, host=host.current),
            updates=updates,
            extra_routes=websocket.routes() if settings.websocket.enabled else (),
        )
        devices.on_revoked, devices.on_forgotten = (seat.revoked, seat.forgotten) if seat else (revoke, registry.forget)
        parts = {"udp": audio, "websocket": websocket, "devices": devices, "ota": app.state, "limits": gate} | updates.parts
        _publish_stats(settings, metrics, registry, {"mqtt": control.front, "broker": control.broker} | parts)
        http = HttpServer(tasks)
        now.http_port = await bind(
            loaded,
            "http.port",
            settings.http.port,
            lambda port: http.start(
                app,
                settings.http.host,
                port,
                max_websocket_message_bytes=MAX_MESSAGE_BYTES if settings.websocket.enabled else 0,
                ack_timeout_s=settings.mqtt.ack_timeout_s,
                reuse_port=seat is not None,
            ),
        )
        stack.push_async_callback(http.aclose)
        if not seat:
            write_access(settings.data_dir, AdminAccess(local_url(settings.http.host, now.http_port), token))
        stack.push_async_callback(_say_goodbye, registry, shut=control.front if seat else None)
        _start_chores(tasks, metrics, host, updates, _warm_up(engines, settings, timezone, warmed))
        now.ready = True
        yield Facts(
            version=release(),
            host=host.current,
            found_by_itself=settings.advertise.host is None,
            http_port=now.http_port,
            mqtt_port=ports.plain,
            mqtt_tls_port=ports.tls,
            broker=f"{settings.broker.host}:{settings.broker.port}" if control.broker else "",
            udp_port=udp_port,
            enrolment=settings.enrolment,
            vad=settings.vad.kind,
            asr=describe(settings.asr),
            llm=describe(settings.llm),
            tts=describe(settings.tts),
            data_dir=settings.data_dir,
        )
        now.ready = False


# -- parts -----------------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Now:
    """What the HTTP side is told anew for each request, because it is known, or changes, only after it was built."""

    http_port: int
    ready: bool = False


def _codec(stack: contextlib.AsyncExitStack, *, alone: bool) -> CodecPool:
    """Encodes in threads that end with ``stack`` when this process is ``alone`` on its cores, else on the loop."""
    if not alone:
        return CodecPool(None)
    threads = ThreadPoolExecutor(CODEC_THREADS, thread_name_prefix="codec")
    stack.callback(threads.shutdown, wait=False, cancel_futures=True)
    return CodecPool(threads, at_once=CODEC_THREADS + 2)


def _services(settings: SettingsTree, providers: Providers, codec: CodecPool, metrics: Metrics, timezone: tzinfo | None) -> Services:
    """What all sessions share."""
    return Services(
        settings=settings,
        engines=Engines(
            asr=providers.asr,
            llm=providers.llm,
            tts=providers.tts,
            intents=providers.intents,
            codec=codec,
        ),
        vad=providers.vad,
        skills=Skills(assistant_name=settings.assistant.name, timezone=settings.assistant.timezone),
        metrics=metrics,
        timezone=timezone,
    )


def _ota_options(settings: SettingsTree, gate: Gate, timezone: tzinfo | None, *, admin_token: str, host: str) -> OtaOptions:
    per_minute = settings.limits.ota_requests_per_minute
    return OtaOptions(
        keepalive_s=settings.mqtt.keepalive_s,
        timezone=timezone,
        admin_token=admin_token,
        version=release(),
        requests_per_s=per_minute / 60,
        requests_burst=per_minute,
        is_exempt=gate.is_exempt,
        broker=hand_off(settings, host=host),
        websocket_version=settings.websocket.version,
    )


async def _open_registry(
    stack: contextlib.AsyncExitStack, settings: SettingsTree, seat: Seat | None
) -> tuple[DeviceStore, Activations | Codes]:
    """The devices and the codes of those that wait for a person: this process's own, or those of all workers. Raises StoreError."""
    devices: DeviceStore
    activations: Activations | Codes
    if seat:
        devices, activations = seat.stores(settings)
    else:
        devices, activations = DeviceStore(enrolment=settings.enrolment), Activations()
    await devices.open(settings.data_dir / "devices.sqlite3")
    stack.push_async_callback(devices.aclose)
    return devices, activations


def _updates(stack: contextlib.AsyncExitStack, settings: SettingsTree, devices: DeviceStore) -> Updates:
    """Firmware for devices, from the data directory."""
    shelf = FirmwareShelf(settings.data_dir / FIRMWARE_DIRECTORY)
    stack.callback(shelf.close)
    downloads = Downloads(shelf, assets=settings.data_dir / "assets", slots=settings.limits.firmware_downloads)
    return Updates(shelf, devices, downloads)


def _check(settings: SettingsTree) -> None:
    """What must be right before anything starts. Raises OperatorError for settings that contradict each other, OpusUnavailable."""
    require_library()
    if settings.advertise.transport == "websocket" and not settings.websocket.enabled:
        raise OperatorError("advertise.transport is websocket, but websocket.enabled is false: no device could connect.")


def _endpoints(settings: SettingsTree, *, host: str, mqtt_port: int, http_port: int) -> Endpoints:
    """What devices are told to connect to."""
    transport = settings.advertise.transport
    url = settings.advertise.websocket_url or f"ws://{host}:{http_port}{WEBSOCKET_PATH}"
    return Endpoints(
        mqtt_host=host,
        mqtt_port=mqtt_port,
        http_base=f"http://{host}:{http_port}",
        offers_mqtt=transport != "websocket",
        websocket_url=url if settings.websocket.enabled and transport != "mqtt" else "",
    )


def _revoke(registry: Registry, websocket: WebSocketEndpoint, device_id: str) -> None:
    """The device's credentials are no longer valid."""
    registry.revoke(device_id)
    websocket.disconnect(device_id)


def _close(control: Control, websocket: WebSocketEndpoint, device_id: str) -> None:
    """The device's connections to this process end."""
    control.links.disconnect(device_id)
    websocket.disconnect(device_id)


def _give_up(registry: Registry, control: Control) -> None:
    """Devices at the broker that another worker is to answer from now on."""
    if control.broker is not None:
        for device_id in control.broker.not_mine():
            registry.hand_over(device_id)
            control.broker.disconnect(device_id)


def _start_chores(
    tasks: asyncio.TaskGroup, metrics: Metrics, host: AdvertisedHost, updates: Updates, warm_up: Coroutine[Any, Any, None]
) -> None:
    """What runs beside the serving."""
    tasks.create_task(metrics.watch_lag(), name="loop lag")
    tasks.create_task(host.watch(), name="address watch")
    tasks.create_task(updates.look_through(), name="firmware files")
    tasks.create_task(warm_up, name="warm-up")


async def _warm_up(engines: Providers, settings: SettingsTree, timezone: tzinfo | None, warmed: Callable[[], None] | None) -> None:
    await engines.warm(system_prompt(settings.assistant, timezone))
    if warmed is not None:
        warmed()


def _spare_collections() -> None:
    """Take what lives as long as the process out of the garbage collector's hands.

    A full collection stops everything for as long as it takes to look at every object, and those of the imported modules alone are
    25 ms of that.
    """
    gc.collect()
    gc.freeze()


def _publish_stats(settings: SettingsTree, metrics: Metrics, registry: Registry, parts: Mapping[str, Any]) -> None:
    metrics.registry.register(ReceptionCollector(registry.receptions, per_device=settings.metrics.per_device))
    for name, part in parts.items():
        if part is None:
            continue
        metrics.stats.add(name, partial(getattr, part, "stats"))
    metrics.stats.add(
        "bridge",
        lambda: {
            "devices_connected": float(sum(device.connected for device in registry.devices)),
            "sessions": float(len(registry.sessions)),
            "hellos": registry.hellos,
            "hellos_refused": registry.hellos_refused,
            "stale_messages": registry.stale_messages,
            "sessions_without_audio": float(sum(session.audio_path is PathState.CLOSED for session in registry.sessions)),
        },
    )


async def _say_goodbye(registry: Registry, *, shut: Front | None) -> None:
    """Every session says goodbye before the listeners close. ``shut`` closes first: its devices shall find another worker."""
    if shut is not None:
        shut.stop_listening()
    registry.end_all("the server is stopping")
    loop = asyncio.get_running_loop()
    until = loop.time() + FAREWELL_S
    while registry.sessions and loop.time() < until:  # noqa: ASYNC110 - once, at the end of the process
        await asyncio.sleep(0.01)


def _timezone(settings: SettingsTree) -> tzinfo | None:
    name = settings.assistant.timezone
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise OperatorError(f"assistant.timezone {name!r} is not a known time zone: use an IANA name such as Europe/Berlin.") from error


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(
            f"The data directory {path} cannot be made: {error.strerror}. Set data_dir to a place that can be written."
        ) from error
