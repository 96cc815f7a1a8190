"""The HTTP side: check-version and activation for devices, health and metrics for machines, a small admin API for people.

=============================== =========================================================================
``POST /xiaozhi/ota/``          check-version (with and without the last slash, GET as well)
``DELETE /xiaozhi/ota/``        a device takes itself off the registry, with its MQTT credentials (HTTP Basic)
``POST /xiaozhi/ota/activate``  202 until a person confirmed the code, 200 afterwards
``GET /healthz``                200 while the process lives
``GET /readyz``                 200 when devices can be served, else 503
``GET /metrics``                Prometheus text
``GET /xiaozhi/firmware/…``     firmware images, and assets (:mod:`ota.downloads`)
``/api/devices…``               with ``Authorization: Bearer <admin.token>``; 404 while no token is set
=============================== =========================================================================
"""

from __future__ import annotations

import asyncio
import base64
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, TypeAlias

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mqtt_control.identity import IdentityError, parse_mac
from mqtt_control.log_budget import LogBudget
from ota.activation import Activations, Codes, LocalCodes, TooManyAttemptsError, TooManyOffersError, UnknownCodeError
from ota.broker import BrokerHandOff
from ota.device_request import read_build, read_facts, read_identity, read_object, read_source, text_of
from ota.devices import UNTOUCHED, Device, DeviceStore, Enrolment, StoreError
from ota.firmware import FirmwareState
from ota.manifest import ActivationNotice, Endpoints, WebSocketOffer, build_manifest
from ota.token_bucket import TokenBuckets
from ota.updates import Updates

_log = structlog.get_logger(__name__)

PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
MAX_PROOF_CHARS = 128
LOGGED_REFUSALS_PER_MINUTE = 30
_TOLD_REFUSALS = frozenset({400, 408, 413, 429, 503})
"""What a device asked in vain and somebody may look for. A 404 is a scanner's, a 403 is logged where it is decided."""

DeviceStats: TypeAlias = Callable[[str], Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtaOptions:
    """``timezone`` None is the machine's. Limits are generous: a house full of devices has one address behind a router."""

    keepalive_s: int = 240
    websocket_version: int = 3
    timezone: tzinfo | None = None
    admin_token: str = ""
    broker: BrokerHandOff | None = None
    version: str = ""
    """The release, told to whoever asks for ``/``."""
    requests_per_s: float = 20
    requests_burst: float = 1000
    is_exempt: Callable[[str], bool] = lambda _address: False
    """Addresses without a limit."""


@dataclass(slots=True)
class OtaStats:
    checks: int = 0
    credentials_issued: int = 0
    codes_offered: int = 0
    activations_pending: int = 0
    activations_confirmed: int = 0
    refused: int = 0
    rate_limited: int = 0
    admin_rejected: int = 0
    left: int = 0
    """Devices that took themselves away."""


def build_app(
    *,
    store: DeviceStore,
    activations: Activations | Codes,
    endpoints: Callable[[], Endpoints],
    ready: Callable[[], bool],
    metrics: Callable[[], bytes | Awaitable[bytes]],
    device_stats: DeviceStats = lambda _: None,
    options: OtaOptions = OtaOptions(),
    updates: Updates | None = None,
    extra_routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """The application; ``app.state.stats`` are its :class:`OtaStats`. ``endpoints`` is asked each time, so they may change.

    ``device_stats`` gives what is known about a device's audio by its Device-Id, ready for JSON; None when it was not seen.
    It may have to ask, and raise TimeoutError.
    ``updates``: without them no firmware is offered or served. ``extra_routes`` are served besides, after ours.
    """
    stats = OtaStats()
    codes = LocalCodes(activations) if isinstance(activations, Activations) else activations
    fleet = _Fleet(store=store, activations=codes, endpoints=endpoints, options=options, stats=stats, updates=updates)
    admin = _Admin(store=store, activations=codes, options=options, stats=stats, device_stats=device_stats, updates=updates)
    routes = [
        Route("/", fleet.about),
        *(Route(path, fleet.ask, methods=["GET", "POST", "DELETE"]) for path in ("/xiaozhi/ota/", "/xiaozhi/ota")),
        *(Route(path, fleet.activate, methods=["POST"]) for path in ("/xiaozhi/ota/activate", "/xiaozhi/ota/activate/")),
        Route("/healthz", _healthz),
        Route("/readyz", _readyz(ready)),
        Route("/metrics", _metrics(metrics)),
        Route("/api/devices", admin.devices),
        Route("/api/devices/approve", admin.approve, methods=["POST"]),
        Route("/api/devices/{device_id}", admin.forget, methods=["DELETE"]),
        Route("/api/devices/{device_id}/stats", admin.statistics),
        Route("/api/devices/{device_id}/rotate", admin.rotate, methods=["POST"]),
        Route("/api/devices/{device_id}/firmware", admin.update, methods=["POST", "DELETE"]),
        Route("/api/firmware", admin.firmware),
        *(updates.downloads.routes(fleet.limit) if updates else ()),
        *extra_routes,
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _errors(), StoreError: _store_error})
    app.router.redirect_slashes = False  # devices follow no redirects
    app.state.stats = stats
    return app


class _Fleet:
    """What devices ask."""

    def __init__(
        self,
        *,
        store: DeviceStore,
        activations: Codes,
        endpoints: Callable[[], Endpoints],
        options: OtaOptions,
        stats: OtaStats,
        updates: Updates | None,
    ) -> None:
        self._updates = updates
        self._store = store
        self._activations = activations
        self._endpoints = endpoints
        self._options = options
        self._stats = stats
        self._buckets = TokenBuckets(rate_per_s=options.requests_per_s, burst=options.requests_burst)
        self._strangers_log = LogBudget(LOGGED_REFUSALS_PER_MINUTE)

    async def about(self, request: Request) -> Response:
        del request
        return JSONResponse(
            {"service": "xiaozhi-bridge", "version": self._options.version, "ota": f"{self._endpoints().http_base}/xiaozhi/ota/"}
        )

    async def ask(self, request: Request) -> Response:
        self.limit(request)
        if request.method == "DELETE":
            return await self._leave(request)
        # the firmware puts /activate at the end of the whole address, behind its query if it has one
        if request.method == "POST" and request.url.query.endswith("/activate"):
            return await self._activate(request)
        return await self._check_version(request)

    async def _leave(self, request: Request) -> Response:
        """The device that holds these credentials is forgotten: it could do all else with them anyway. HTTP 401 for others."""
        identity = read_identity(request)
        username, password = _basic_credentials(request)
        if self._store.authenticate(identity.mqtt_client_id, username, password) is None:
            raise HTTPException(401, "these are not the MQTT credentials of this device", headers={"WWW-Authenticate": "Basic"})
        await self._store.forget(identity.device_id)
        self._stats.left += 1
        _log.info("a device has taken itself away", device_id=identity.device_id, source=read_source(request))
        return JSONResponse({"device_id": identity.device_id, "status": "forgotten"})

    async def _check_version(self, request: Request) -> Response:
        identity = read_identity(request)
        body = await read_object(request)
        facts = read_facts(request, body)
        self._stats.checks += 1
        enrolment = await self._store.enrol(identity.device_id, identity.client_id, facts)
        device = enrolment.device
        if device is None:
            self._stats.refused += 1
            if self._strangers_log.allows(_now_s()):
                _log.warning("an unknown device was refused", device_id=identity.device_id, source=read_source(request))
            raise HTTPException(403, "this server does not let new devices in")
        approved = enrolment.state == "approved"
        if enrolment.fresh and self._strangers_log.allows(_now_s()):
            shown = {"board": device.facts.board, "firmware": device.facts.firmware}
            _log.info("a new device was let in", device_id=device.device_id, source=read_source(request), **shown)
        endpoints, broker, topics = self._endpoints(), self._options.broker, {}
        websocket = self._websocket(device, endpoints) if approved else None
        credentials = self._store.credentials(device) if approved and endpoints.offers_mqtt else None
        if broker is not None and approved and broker.serves(device):
            endpoints, credentials, topics = broker.endpoints(endpoints), broker.credentials(device), broker.topics(device)
        build = read_build(request, body)
        firmware = None
        if approved and self._updates is not None:
            firmware = await self._updates.offer(device.device_id, build, http_base=self._endpoints().http_base)
        manifest = build_manifest(
            endpoints=endpoints,
            credentials=credentials,
            websocket=websocket,
            activation=None if approved else await self._notice(enrolment, device, request),
            device_version=build.version,
            firmware=firmware,
            now_ms=int(datetime.now(UTC).timestamp() * 1000),
            timezone_offset_min=self._timezone_offset_min(),
            keepalive_s=self._options.keepalive_s,
            **topics,
        )
        self._stats.credentials_issued += approved
        return JSONResponse(manifest)

    def _websocket(self, device: Device, endpoints: Endpoints) -> WebSocketOffer | None:
        if not endpoints.websocket_url:
            return None
        return WebSocketOffer(endpoints.websocket_url, self._store.bearer(device), self._options.websocket_version)

    async def activate(self, request: Request) -> Response:
        self.limit(request)
        return await self._activate(request)

    async def _activate(self, request: Request) -> Response:
        identity = read_identity(request)
        body = await read_object(request)
        payload = body.get("Payload")
        proof: dict[str, Any] = payload if isinstance(payload, dict) else body
        challenge = proof.get("challenge")
        pair = (identity.device_id, identity.client_id)
        told = None if challenge is None else text_of(challenge, limit=MAX_PROOF_CHARS)
        state = await self._activations.state(pair, challenge=told, now=_now_s())
        if state == "none" and (challenge is not None or not self._store.is_approved(pair)):
            raise HTTPException(403, "no activation is under way for this device with this challenge; check the version again")
        if told is not None:
            serial_number, proof_hex = (text_of(proof.get(key), limit=MAX_PROOF_CHARS) for key in ("serial_number", "hmac"))
            await self._activations.record_proof(pair, serial_number=serial_number, hmac_hex=proof_hex)
        if not self._store.is_approved(pair):
            self._stats.activations_pending += 1
            return JSONResponse({"status": "waiting for confirmation"}, status_code=202)
        self._stats.activations_confirmed += 1
        return JSONResponse({"status": "activated"})

    async def _notice(self, enrolment: Enrolment, device: Device, request: Request) -> ActivationNotice:
        source = read_source(request)
        try:
            offer = await self._activations.offer(device.pair, source=source, now=_now_s())
        except TooManyOffersError as error:
            raise HTTPException(503, f"{error}; try again later", headers={"Retry-After": "600"}) from error
        if offer.fresh:
            self._stats.codes_offered += 1
            self._tell(enrolment, device, source)
        return ActivationNotice(offer.code, f"{self._endpoints().http_base}\n{offer.code}", offer.challenge)

    def _tell(self, enrolment: Enrolment, device: Device, source: str) -> None:
        """The code is not logged: reading it from the device is what proves that the device is at hand."""
        if enrolment.state == "other_client":
            _log.warning(
                "a known device came with another Client-Id and got no credentials: its flash was erased, or somebody pretends to be it; "
                "approve the code only if you read it on the device's own screen",
                device_id=device.device_id,
                source=source,
            )
        else:
            _log.info("a new device waits for its code to be approved", device_id=device.device_id, source=source)

    def _timezone_offset_min(self) -> int:
        offset = datetime.now(UTC).astimezone(self._options.timezone).utcoffset()
        return int(offset.total_seconds() // 60) if offset else 0

    def limit(self, request: Request) -> None:
        """Count a request. HTTP 429 when its source asks too often."""
        if request.client is not None and self._options.is_exempt(request.client.host):
            return
        if not self._buckets.take(read_source(request), now=_now_s()):
            self._stats.rate_limited += 1
            raise HTTPException(429, "too many requests from this address", headers={"Retry-After": "10"})


class _Admin:
    """What people ask, with the token."""

    def __init__(
        self,
        *,
        store: DeviceStore,
        activations: Codes,
        options: OtaOptions,
        stats: OtaStats,
        device_stats: DeviceStats,
        updates: Updates | None,
    ) -> None:
        self._store = store
        self._updates = updates
        self._activations = activations
        self._device_stats = device_stats
        self._token = options.admin_token.encode()
        self._stats = stats
        self._failures = TokenBuckets(rate_per_s=1 / 30, burst=20)

    async def devices(self, request: Request) -> Response:
        self._authorise(request)
        serial_numbers, firmware = await self._activations.serial_numbers(), self._store.firmware_states()
        described = [self._describe(one, serial_numbers, firmware.get(one.device_id, UNTOUCHED)) for one in self._store.all()]
        return JSONResponse({"devices": described})

    async def approve(self, request: Request) -> Response:
        source = self._authorise(request)
        code = text_of((await read_object(request)).get("code"))
        if not code:
            raise HTTPException(400, 'the body must be {"code": "123456"}')
        try:
            pair = await self._activations.confirm(code, source=source, now=_now_s())
        except UnknownCodeError as error:
            raise HTTPException(404, str(error)) from error
        except TooManyAttemptsError as error:
            raise HTTPException(429, str(error), headers={"Retry-After": "600"}) from error
        try:
            device = await self._store.approve(*pair)
        except BaseException:
            await self._activations.unconfirm(pair)
            raise
        _log.info("a device was approved", device_id=device.device_id, source=source)
        return JSONResponse(await self._describe_one(device))

    async def forget(self, request: Request) -> Response:
        source = self._authorise(request)
        device_id = _path_device_id(request)
        if not await self._store.forget(device_id):
            raise HTTPException(404, "there is no such device")
        _log.info("a device was forgotten", device_id=device_id, source=source)
        return JSONResponse({"device_id": device_id, "status": "forgotten"})

    async def rotate(self, request: Request) -> Response:
        source = self._authorise(request)
        device = await self._store.rotate(_path_device_id(request))
        if device is None:
            raise HTTPException(404, "there is no such approved device")
        _log.info("a device's credentials were replaced; it must be restarted", device_id=device.device_id, source=source)
        return JSONResponse(await self._describe_one(device))

    async def statistics(self, request: Request) -> Response:
        self._authorise(request)
        device_id = _path_device_id(request)
        try:
            told = self._device_stats(device_id)
            statistics = await told if isinstance(told, Awaitable) else told
        except TimeoutError as error:
            raise HTTPException(503, "the process that has the device does not answer", headers={"Retry-After": "5"}) from error
        if statistics is None:
            known = self._store.get(device_id) is not None
            raise HTTPException(404, "the device has not connected since the server started" if known else "there is no such device")
        return JSONResponse({"device_id": device_id, **statistics})

    def _authorise(self, request: Request) -> str:
        """The source of the request. HTTP 404 when the API is off, 401 for a wrong token, 429 after many wrong ones."""
        if not self._token:
            raise HTTPException(404, "Not Found")
        source = read_source(request)
        if self._failures.empty(source, now=_now_s()):
            raise HTTPException(429, "too many wrong tokens from this address", headers={"Retry-After": "30"})
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            self._failures.take(source, now=_now_s())
            self._stats.admin_rejected += 1
            raise HTTPException(401, "the bearer token is missing or wrong", headers={"WWW-Authenticate": "Bearer"})
        return source

    async def firmware(self, request: Request) -> Response:
        """The files that may be offered, and those that may not."""
        self._authorise(request)
        if self._updates is None:
            return JSONResponse({"files": [], "not_offered": {}})
        index = await self._updates.shelf.index(refresh_s=0)
        files = [asdict(file) | {"url_path": file.url_path} for file in index.files]
        return JSONResponse({"files": files, "not_offered": dict(self._updates.shelf.complaints)})

    async def update(self, request: Request) -> Response:
        """POST: install ``version`` by force at the next check-version, once. DELETE: take that back, and offer what is newer anew."""
        source = self._authorise(request)
        device = self._store.get(_path_device_id(request))
        if device is None or device.status != "approved" or self._updates is None:
            raise HTTPException(404, "there is no such approved device")
        if request.method == "DELETE":
            await self._store.release_firmware(device.device_id)
            _log.info("a device's firmware offers begin anew", device_id=device.device_id, source=source)
            return JSONResponse(await self._describe_one(device))
        version = text_of((await read_object(request)).get("version"))
        if not version:
            raise HTTPException(400, 'the body must be {"version": "2.4.2"}')
        if await self._updates.force(device.device_id, device.facts.board, version) is None:
            raise HTTPException(404, "there is no such version for the device's board; see /api/firmware")
        _log.warning("a firmware will be forced once", device_id=device.device_id, version=version, source=source)
        return JSONResponse(await self._describe_one(device))

    async def _describe_one(self, device: Device) -> dict[str, Any]:
        return self._describe(device, await self._activations.serial_numbers(), self._store.firmware_state(device.device_id))

    def _describe(self, device: Device, serial_numbers: dict[tuple[str, str], str], state: FirmwareState) -> dict[str, Any]:
        """A device as JSON. The Client-Id stays out: it is half of what proves a device to be itself."""
        return {
            "device_id": device.device_id,
            "status": device.status,
            "alias": device.alias,
            "board": device.facts.board,
            "firmware": device.facts.firmware,
            "serial_number": serial_numbers.get(device.pair, ""),
            "update": {"offered": state.version, "offers": state.offers, "held": state.held, "force": state.force},
            "replaces_known": device.status == "pending" and not self._is_new(device),
            "first_seen": device.first_seen.isoformat(timespec="seconds"),
            "last_seen": device.last_seen.isoformat(timespec="seconds"),
        }

    def _is_new(self, device: Device) -> bool:
        known = self._store.get(device.device_id)
        return known is None or known.status == "pending"


def _basic_credentials(request: Request) -> tuple[str, bytes]:
    """User name and password of ``Authorization: Basic`` (RFC 7617); both empty when there is none."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "", b""
    try:
        username, _, password = base64.b64decode(encoded, validate=True).partition(b":")
        return username.decode("ascii"), password
    except ValueError:
        return "", b""


def _path_device_id(request: Request) -> str:
    try:
        return parse_mac(request.path_params["device_id"])
    except IdentityError as error:
        raise HTTPException(404, "there is no such device") from error


def _now_s() -> float:
    return asyncio.get_running_loop().time()


async def _healthz(request: Request) -> Response:
    del request
    return JSONResponse({"status": "ok"})


def _readyz(ready: Callable[[], bool]) -> Callable[[Request], Any]:
    async def readyz(request: Request) -> Response:
        del request
        is_ready = ready()
        return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)

    return readyz


def _metrics(metrics: Callable[[], bytes | Awaitable[bytes]]) -> Callable[[Request], Any]:
    async def serve(request: Request) -> Response:
        del request
        text = metrics()
        return Response(text if isinstance(text, bytes) else await text, headers={"Content-Type": PROMETHEUS_TEXT})

    return serve


def _errors() -> Callable[[Request, Exception], Awaitable[Response]]:
    """What became of a request that was refused: JSON, and for what devices ask a line in the log."""
    budget = LogBudget(LOGGED_REFUSALS_PER_MINUTE)

    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - the table of handlers says so
        path = request.url.path
        if path.startswith("/xiaozhi/") and error.status_code in _TOLD_REFUSALS and budget.allows(_now_s()):
            facts = {"path": path[:MAX_PROOF_CHARS], "source": read_source(request), "status": error.status_code}
            _log.warning("a request was refused", reason=error.detail, **facts, unlogged_before=budget.take_suppressed())
        return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)

    return answer


async def _store_error(request: Request, error: Exception) -> Response:
    _log.error("the device registry failed", reason=str(error), path=request.url.path)
    return JSONResponse({"error": "the device registry cannot be written; see the server's log"}, status_code=503)
