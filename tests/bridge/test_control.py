"""Which links there are, and where devices are sent, by ``control.mode``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bridge.control import build_control, hand_off
from bridge.errors import OperatorError
from bridge.limits import Gate
from mqtt_control.link import LinkListener
from ota.devices import DeviceStore
from settings.load import SettingsError, load
from settings.model import SettingsTree
from tests.mqtt_control.test_links import Recorder


def tree(**settings: Any) -> SettingsTree:
    return load(None, overrides={name.replace("__", "."): value for name, value in settings.items()}).tree


def gate(settings: SettingsTree) -> Gate:
    return Gate(settings.limits, now=asyncio.get_running_loop().time)


@pytest.mark.parametrize(
    ("mode", "links"), [(None, (True, False)), ("front", (True, False)), ("broker", (False, True)), ("both", (True, True))]
)
async def test_links_of_each_mode(mode: str | None, links: tuple[bool, bool], tmp_path: Path) -> None:
    settings = tree(**({"control__mode": mode} if mode else {}))
    devices = DeviceStore()
    await devices.open(tmp_path / "devices.sqlite3")
    listener: LinkListener = Recorder()
    control = build_control(settings, devices=devices, listener=listener, gate=gate(settings))
    assert (control.front is not None, control.broker is not None) == links
    assert not control.links.connected("02:00:00:00:00:0a")
    await devices.aclose()


def test_where_devices_are_sent() -> None:
    assert hand_off(tree(), host="192.0.2.1") is None
    assert hand_off(tree(control__mode="both"), host="192.0.2.1") is None
    here = hand_off(tree(control__mode="broker"), host="192.0.2.1")
    assert here is not None
    assert (here.host, here.port, here.only) == ("192.0.2.1", 1883, ()), "127.0.0.1 would lead a device to itself"
    there = hand_off(tree(control__mode="broker", broker__host="192.0.2.5", broker__port=1884), host="192.0.2.1")
    assert there is not None
    assert (there.host, there.port) == ("192.0.2.5", 1884)
    settings = {"control__mode": "both", "broker__devices": "py-*,02:00:00:00:00:0a", "broker__advertise_host": "mqtt.example.org"}
    some = hand_off(tree(**settings, broker__advertise_port=8883), host="192.0.2.1")
    assert some is not None
    assert (some.host, some.port, some.only) == ("mqtt.example.org", 8883, ("py-*", "02:00:00:00:00:0a"))


async def test_what_cannot_work_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="advertise_host"):
        hand_off(tree(control__mode="broker", broker__host="2001:db8::1"), host="192.0.2.1")
    settings = tree(control__mode="broker", broker__tls__enabled=True, broker__tls__ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(OperatorError, match="ca_file"):
        build_control(settings, devices=DeviceStore(), listener=Recorder(), gate=gate(settings))
    for root in ("", "/xiaozhi", "a/+/b", "a/#", "xiaozhi/"):
        with pytest.raises(SettingsError, match="topic_root"):
            tree(broker__topic_root=root)
