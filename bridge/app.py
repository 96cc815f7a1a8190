"""The composition root: builds everything from the settings, serves, and takes it down again.

Order: models found, audio socket, MQTT front, HTTP; only then is the process ready. Engines are loaded afterwards, in
their own threads, so that a device can connect at once and the first turn is like the later ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
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
from bridge.certificate import ServerCertificate
from bridge.control import Control, build_control, hand_off, start_broker
from bridge.errors import OperatorError
from bridge.limits import Gate
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
from ota.manifest import Endpoints
from ota.server import HttpServer
from providers.base import IntentRecognizer, Llm, Message, ModelMissing, ProviderError, SpeechToText, TextToSpeech, Vad
from providers.factory import build_asr, build_intents, build_llm, build_tts, build_vad
from providers.inventory import models_needed
from providers.models import ModelStore
from settings.load import Loaded
from settings.model import Mqtt, SettingsTree
from udp_audio.opus import require_library
from udp_audio.server import AudioServer

if TYPE_CHECKING:
    from bridge.workers.seat import Seat

log = structlog.get_logger(__name__)

PORTS_TRIED = 50
FAREWELL_S = 0.3
CODEC_THREADS = 2
STOCK_TLS_PORT = 8883
"""The only port on which devices use TLS."""


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
    async with bridge(loaded, providers=providers, seat=seat) as facts:
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
) -> AsyncIterator[Facts]:
    """The running bridge; leaving the block says goodbye to all devices and closes everything.

    ``providers`` builds the engines; by default those that the settings name. ``seat`` as for :func:`serve`. Raises OperatorError.
    """
    settings = loaded.tree
    _check(settings)
    timezone = _timezone(settings)
    certificate = _certificate(settings.mqtt)
    _make_directory(settings.data_dir)
    engines = await _build_engines(settings, providers)
    metrics = Metrics()
    codec = ThreadPoolExecutor(CODEC_THREADS, thread_name_prefix="codec")
    services = Services(
        settings=settings,
        engines=Engines(asr=engines.asr, llm=engines.llm, tts=engines.tts, intents=engines.intents, codec=codec),
        vad=engines.vad,
        skills=Skills(assistant_name=settings.assistant.name, timezone=settings.assistant.timezone),
        metrics=metrics,
        timezone=timezone,
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(codec.shutdown, wait=False, cancel_futures=True)
        stack.push_async_callback(engines.aclose)
        devices, activations = await _open_registry(stack, settings, seat)
        tasks = await stack.enter_async_context(task_scope())
        audio = AudioServer()
        udp_port = await _bind(
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
        control = build_control(settings, devices=devices, listener=listener, gate=gate)
        registry.attach(control.links)
        websocket = WebSocketEndpoint(
            authenticate=devices.authenticate_bearer, listener=listener, hello_timeout_s=settings.websocket.hello_timeout_s
        )
        revoke = partial(_revoke, registry, websocket)
        if seat:
            seat.attach(registry=registry, metrics=metrics, revoke=revoke, close=partial(_close, control, websocket))
        ports = await _start_front(loaded, control.front, certificate, stack, tasks, shared=seat is not None)
        _start_broker(control, stack, tasks)
        token = admin_token(settings)
        is_ready = [False]
        http_ports = [settings.http.port]
        app = build_app(
            store=devices,
            activations=activations,
            endpoints=lambda: _endpoints(settings, host=host.current, mqtt_port=ports.told, http_port=http_ports[0]),
            ready=lambda: is_ready[0],
            metrics=seat.exposition if seat else metrics.exposition,
            device_stats=lambda device_id: report.as_json() if (report := registry.reception(device_id)) is not None else None,
            options=OtaOptions(
                keepalive_s=settings.mqtt.keepalive_s,
                timezone=timezone,
                admin_token=token,
                version=release(),
                requests_per_s=settings.limits.ota_requests_per_minute / 60,
                requests_burst=settings.limits.ota_requests_per_minute,
                is_exempt=gate.is_exempt,
                broker=hand_off(settings, host=host.current),
                websocket_version=settings.websocket.version,
            ),
            extra_routes=websocket.routes() if settings.websocket.enabled else (),
        )
        devices.on_revoked = seat.revoked if seat else revoke
        devices.on_forgotten = seat.forgotten if seat else registry.forget
        parts = {"udp": audio, "websocket": websocket, "devices": devices, "ota": app.state, "limits": gate}
        _publish_stats(settings, metrics, registry, {"mqtt": control.front, "broker": control.broker} | parts)
        http = HttpServer(tasks)
        http_port = http_ports[0] = await _bind(
            loaded,
            "http.port",
            settings.http.port,
            lambda port: http.start(
                app,
                settings.http.host,
                port,
                max_websocket_message_bytes=MAX_MESSAGE_BYTES if settings.websocket.enabled else 0,
                reuse_port=seat is not None,
            ),
        )
        stack.push_async_callback(http.aclose)
        if not seat:
            write_access(settings.data_dir, AdminAccess(local_url(settings.http.host, http_port), token))
        stack.push_async_callback(_say_goodbye, registry, shut=control.front if seat else None)
        _start_chores(tasks, metrics, host, engines.warm(system_prompt(settings.assistant, timezone)))
        is_ready[0] = True
        yield Facts(
            version=release(),
            host=host.current,
            found_by_itself=settings.advertise.host is None,
            http_port=http_port,
            mqtt_port=ports.plain,
            mqtt_tls_port=ports.tls,
            broker=f"{settings.broker.host}:{settings.broker.port}" if control.broker else "",
            udp_port=udp_port,
            enrolment=settings.enrolment,
            vad=settings.vad.kind,
            asr=_describe(settings.asr),
            llm=_describe(settings.llm),
            tts=_describe(settings.tts),
            data_dir=settings.data_dir,
        )
        is_ready[0] = False


# -- parts -----------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Providers:
    """The engines of one process."""

    vad: Vad
    asr: SpeechToText
    llm: Llm
    tts: TextToSpeech
    intents: IntentRecognizer

    @classmethod
    def build(cls, settings: SettingsTree, store: ModelStore) -> Providers:
        return cls(
            vad=build_vad(settings.vad, store=store),
            asr=build_asr(settings.asr, store=store),
            llm=build_llm(settings.llm, store=store),
            tts=build_tts(settings.tts, store=store),
            intents=build_intents(settings.intent, store=store),
        )

    async def warm(self, prompt: str) -> None:
        """Load what the first turn will need, in the order in which it needs it. What fails is logged: turns will say so."""
        loop = asyncio.get_running_loop()
        steps = (
            ("vad", self.vad.warm),
            ("asr", self.asr.warm),
            ("intents", self.intents.warm),
            ("tts", self.tts.warm),
            ("llm", partial(self.llm.warm, [Message("system", prompt)])),
        )
        for name, warm in steps:
            started = loop.time()
            try:
                await warm()
            except ProviderError as error:
                log.warning("an engine could not be loaded", engine=name, error=str(error))
            else:
                log.info("engine loaded", engine=name, ms=round((loop.time() - started) * 1000))
        log.info("all engines are warm")

    async def aclose(self) -> None:
        for engine in (self.llm, self.tts, self.intents, self.asr, self.vad):
            await engine.aclose()


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


async def _build_engines(settings: SettingsTree, providers: Callable[[SettingsTree, ModelStore], Providers] | None) -> Providers:
    """The engines, not loaded yet. Raises OperatorError for a model that is not there and cannot be had."""
    store = ModelStore(settings.data_dir / "models", offline=settings.models.offline, hub_url=settings.models.hub_url)
    if providers is not None:
        return providers(settings, store)
    await _find_models(settings, store)
    return Providers.build(settings, store)


async def _find_models(settings: SettingsTree, store: ModelStore) -> None:
    """Every model that the settings name is on this machine, fetched or assembled now if need be. Raises OperatorError."""
    for name, required in models_needed(settings):
        try:
            await asyncio.to_thread(store.resolve, name)
        except ModelMissing as error:
            if required:
                raise OperatorError(str(error)) from error
            log.warning("a model is missing", model=name, error=str(error))


async def _bind(loaded: Loaded, path: str, port: int, start: Callable[[int], Awaitable[int]]) -> int:
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


def _check(settings: SettingsTree) -> None:
    """What must be right before anything starts. Raises OperatorError for settings that contradict each other, OpusUnavailable."""
    require_library()
    if settings.advertise.transport == "websocket" and not settings.websocket.enabled:
        raise OperatorError("advertise.transport is websocket, but websocket.enabled is false: no device could connect.")


@dataclass(frozen=True, slots=True)
class _MqttPorts:
    """Where the front listens; ``told``: the port in OTA answers."""

    plain: int | None
    tls: int | None
    told: int


async def _start_front(
    loaded: Loaded,
    front: Front | None,
    certificate: ServerCertificate | None,
    stack: contextlib.AsyncExitStack,
    tasks: asyncio.TaskGroup,
    *,
    shared: bool,
) -> _MqttPorts:
    """Listen, plain and with TLS as the settings say; the front closes with ``stack``. Raises OperatorError.

    ``shared``: beside the other workers.
    """
    mqtt, advertised = loaded.tree.mqtt, loaded.tree.advertise.mqtt_port
    plain = tls = None
    if front is None:
        # the port is never handed out: the broker's takes its place
        return _MqttPorts(None, None, advertised or loaded.tree.broker.port)
    stack.push_async_callback(front.aclose)
    listen = partial(front.start, host=mqtt.host, reuse_port=shared)
    if mqtt.plain:
        plain = await _bind(loaded, "mqtt.port", mqtt.port, lambda port: listen(port=port))
    if certificate is not None:
        context = certificate.context
        tls = await _bind(loaded, "mqtt.tls.port", mqtt.tls.port, lambda port: listen(port=port, ssl=context))
        tasks.create_task(certificate.watch(), name="certificate watch")
    told = advertised or plain or tls or 0
    if (tls if told == STOCK_TLS_PORT else plain) is None:
        log.warning(
            "stock devices use TLS on port 8883 and on no other: with this port they cannot connect",
            told_port=told,
            tls_port=tls,
            fix="advertise.mqtt_port: 8883 for TLS, any other port for plain MQTT",
        )
    return _MqttPorts(plain, tls, told)


def _start_broker(control: Control, stack: contextlib.AsyncExitStack, tasks: asyncio.TaskGroup) -> None:
    """The link to the user's broker, when there is one; it closes with ``stack``."""
    if control.broker is not None:
        start_broker(control.broker, tasks)
        stack.push_async_callback(control.broker.aclose)


def _certificate(mqtt: Mqtt) -> ServerCertificate | None:
    """The certificate of the settings. Raises OperatorError."""
    tls = mqtt.tls
    if tls.certificate is None and tls.private_key is None and not mqtt.plain:
        raise OperatorError("mqtt.plain is false, but there is no TLS: set mqtt.tls.certificate and mqtt.tls.private_key.")
    if tls.certificate is None and tls.private_key is None:
        return None
    if tls.certificate is None or tls.private_key is None:
        raise OperatorError("mqtt.tls needs both certificate and private_key.")
    return ServerCertificate(tls.certificate, tls.private_key)


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


def _start_chores(tasks: asyncio.TaskGroup, metrics: Metrics, host: AdvertisedHost, warm_up: Coroutine[Any, Any, None]) -> None:
    """What runs beside the serving."""
    tasks.create_task(metrics.watch_lag(), name="loop lag")
    tasks.create_task(host.watch(), name="address watch")
    tasks.create_task(warm_up, name="warm-up")


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


def _describe(config: object) -> str:
    """Provider kind and, when it has one, the model or voice."""
    kind = str(getattr(config, "kind", ""))
    detail = getattr(config, "model", None) or getattr(config, "voice", None)
    return f"{kind} ({detail})" if detail else kind


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
