"""What a person reads when the bridge is ready."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Facts:
    """Where the running bridge is and what it runs on."""

    version: str
    host: str
    found_by_itself: bool
    http_port: int
    mqtt_port: int | None
    """None: only TLS, or no front."""
    mqtt_tls_port: int | None
    udp_port: int
    enrolment: str
    vad: str
    asr: str
    llm: str
    tts: str
    data_dir: Path
    broker: str = ""
    udp_ports: tuple[int, ...] = ()
    """With several workers: the port of each."""

    @classmethod
    def of_workers(cls, each: Sequence[Facts]) -> Facts:
        """The facts of one server of several processes, in the order of the workers."""
        return replace(each[0], udp_ports=tuple(facts.udp_port for facts in each))

    @property
    def ota_url(self) -> str:
        """The address that a device is given."""
        return f"http://{self.host}:{self.http_port}/xiaozhi/ota/"

    def as_log(self) -> dict[str, object]:
        """The same as flat facts."""
        return {
            "ota_url": self.ota_url,
            "http_port": self.http_port,
            "mqtt_port": self.mqtt_port,
            "broker": self.broker,
            "mqtt_tls_port": self.mqtt_tls_port,
            "udp_port": self.udp_port,
            "enrolment": self.enrolment,
            "asr": self.asr,
            "llm": self.llm,
            "tts": self.tts,
            "version": self.version,
            **({"workers": len(self.udp_ports), "udp_ports": list(self.udp_ports)} if self.udp_ports else {}),
        }


def banner(facts: Facts) -> str:
    """The page for a terminal, without colour."""
    front = [str(facts.mqtt_port)] if facts.mqtt_port else []
    front += [f"TLS on {facts.mqtt_tls_port}"] if facts.mqtt_tls_port else []
    mqtt = " and ".join(filter(None, (", ".join(front), f"your broker at {facts.broker}" if facts.broker else "")))
    how = "found by itself; set advertise.host if devices need another" if facts.found_by_itself else "as set"
    if facts.host.startswith("127."):
        how = "only this machine can reach it: set advertise.host to the address that devices see"
    udp = f"{', '.join(map(str, facts.udp_ports))} ({len(facts.udp_ports)} workers)" if facts.udp_ports else str(facts.udp_port)
    return f"""
  XiaoZhi bridge {facts.version} is ready.

  OTA address for devices   {facts.ota_url}
                            ({how})
  MQTT                      {mqtt}
  UDP audio                 {udp}
  new devices               {facts.enrolment}
  hears with                {facts.vad}, {facts.asr}
  thinks with               {facts.llm}
  speaks with               {facts.tts}
  keeps its data in         {facts.data_dir.resolve()}

  Try it without a device, in another terminal:
      {_program()} device --ota-url {facts.ota_url} --wav examples/question_en.wav
"""


def _program() -> str:
    """How this program is called from here: by its name when the shell finds it, else by the path it was started with."""
    started = Path(sys.argv[0])
    if shutil.which("xiaozhi-bridge") or started.name != "xiaozhi-bridge":
        return "xiaozhi-bridge"
    relative = os.path.relpath(started)
    return str(started) if relative.startswith("..") else relative
