"""Requests at the HTTP side: every answer is one that the code means to give."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
from hypothesis import given
from hypothesis import strategies as st

from ota.activation import Activations
from ota.api import OtaOptions, build_app
from ota.devices import DeviceStore
from ota.downloads import Downloads
from ota.manifest import Endpoints
from ota.shelf import FirmwareShelf
from ota.updates import Updates
from tests.fuzz.effort import effort
from tests.fuzz.test_fuzz_control import junk
from tests.ota.images import put

MEANT = {200, 202, 400, 401, 403, 404, 405, 413, 429, 503}
header_text = st.one_of(
    st.sampled_from(
        ["02:00:00:00:00:01", "02-00-00-00-00-02", "client-1", "1", "2", "Basic dTpw", "Bearer token", "bread/2.4.2", "x/v1..2"]
    ),
    st.binary(max_size=40).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"").strip()),
)
headers = st.dictionaries(
    st.sampled_from(["Device-Id", "Client-Id", "Activation-Version", "Serial-Number", "User-Agent", "Authorization", "Content-Type"]),
    header_text,
    max_size=6,
)
JUNK_MEMBERS = ("board", "partition_table", "chip_model_name", "challenge", "Payload", "code")
application = st.fixed_dictionaries(
    {}, optional={"application": st.fixed_dictionaries({"version": junk}), **dict.fromkeys(JUNK_MEMBERS, junk)}
)
bodies = st.one_of(
    st.binary(max_size=200),
    junk.map(lambda value: json.dumps(value).encode(errors="replace")),
    application.map(lambda value: json.dumps(value).encode(errors="replace")),
    st.integers(1, 20_000).map(lambda depth: b"[" * depth),
)
paths = st.sampled_from(
    "/xiaozhi/ota/ /xiaozhi/ota /xiaozhi/ota/activate / /api/devices /api/devices/approve /healthz "
    "/xiaozhi/firmware/x/1.bin /xiaozhi/assets/x /api/firmware /api/devices/02:00:00:00:00:01/firmware "
    "/api/devices/02:00:00:00:00:01 /api/devices/%00/rotate /api/devices/../../etc/rotate".split()
)
request = st.tuples(st.sampled_from(["POST", "GET", "DELETE", "PUT", "HEAD"]), paths, headers, bodies, st.booleans())


def is_harmless(firmware: Any) -> bool:
    """Whether a device can compare what is offered."""
    return firmware is None or re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})*", firmware["version"]) is not None


@effort(0.3)
@given(st.lists(request, min_size=1, max_size=25), st.sampled_from(["open", "code", "closed"]))
def test_any_request(tmp_path_factory: Any, requests: list[tuple[str, str, dict[str, Any], bytes, bool]], enrolment: Any) -> None:
    directory: Path = tmp_path_factory.mktemp("ota")

    async def scenario() -> None:
        store = DeviceStore(enrolment=enrolment)
        await store.open(directory / "devices.sqlite3")
        shelf = FirmwareShelf(directory / "firmware", refresh_s=0)
        put(directory, "bread", "2.5.0")
        app = build_app(
            store=store,
            activations=Activations(),
            endpoints=lambda: Endpoints("192.168.1.10", 1883, "http://192.168.1.10:8003"),
            ready=lambda: True,
            metrics=lambda: b"",
            options=OtaOptions(admin_token="token"),
            updates=Updates(shelf, store, Downloads(shelf, assets=directory / "assets")),
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://192.168.1.10:8003") as http:
            for method, path, given_headers, body, as_device in requests:
                stock = {"Device-Id": "02:00:00:00:00:01", "Client-Id": "client-1"} if as_device else {}
                answer = await http.request(method, path, headers=[*(stock | given_headers).items()], content=body)
                assert answer.status_code in MEANT, (method, path)
                if answer.status_code == 200 and path.startswith("/xiaozhi/ota") and method == "POST":
                    assert isinstance(answer.json(), dict)
                    assert is_harmless(answer.json().get("firmware"))
        await store.aclose()
        shelf.close()

    asyncio.run(scenario())
