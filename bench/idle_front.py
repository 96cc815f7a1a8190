"""The MQTT listener alone as a process of a bench: no registry, no sessions, everybody is let in.

Reads its plan as a JSON line, says its port, then answers each further line with what it uses.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
import uvloop

from bench.machine import resident_mb
from bridge.certificate import ServerCertificate
from mqtt_control.front import Front
from mqtt_control.identity import DeviceIdentity, parse_client_id
from mqtt_control.messages import Inbound, Outbound
from settings.model import Mqtt


class Deaf:
    """A listener that does nothing."""

    def device_connected(self, identity: DeviceIdentity, peer_ip: str) -> None: ...

    def device_message(self, identity: DeviceIdentity, message: Inbound) -> None: ...

    def messages_missed(self, identity: DeviceIdentity, messages: Sequence[Outbound]) -> None: ...

    def device_disconnected(self, identity: DeviceIdentity) -> None: ...


async def serve(plan: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    options = Mqtt(max_connections=1_000_000)
    front = Front(options, authenticate=lambda client_id, _username, _password: parse_client_id(client_id), listener=Deaf())
    files = plan.get("certificate")
    context = ServerCertificate(Path(files[0]), Path(files[1])).context if files else None
    port = await front.start(host="127.0.0.1", port=0, ssl=context)
    answer({"port": port})
    while await loop.run_in_executor(None, sys.stdin.readline):
        gc.collect()
        answer({"rss_mb": resident_mb(), "cpu_s": time.process_time(), "devices": front.stats.devices})
    await front.aclose()


def answer(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # standard output is for answers
    plan = json.loads(sys.stdin.readline())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(plan))


if __name__ == "__main__":
    main()
