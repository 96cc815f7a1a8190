"""Several links as one. The links are scripted: the real ones meet in tests/e2e."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mqtt_control.identity import DeviceIdentity
from mqtt_control.links import Links, Route
from mqtt_control.messages import Abort, Inbound, Outbound, TtsStop

ALICE = DeviceIdentity("02:00:00:00:00:0a", "a1")
BOB = DeviceIdentity("02:00:00:00:00:0b", "b1")
STOP = TtsStop("s")


class Recorder:
    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def device_connected(self, identity: DeviceIdentity, peer_ip: str) -> None:
        self.heard.append(("connected", identity.device_id, peer_ip))

    def device_message(self, identity: DeviceIdentity, message: Inbound) -> None:
        self.heard.append(("message", identity.device_id, message))

    def messages_missed(self, identity: DeviceIdentity, messages: Sequence[Outbound]) -> None:
        self.heard.append(("missed", identity.device_id, list(messages)))

    def device_disconnected(self, identity: DeviceIdentity) -> None:
        self.heard.append(("disconnected", identity.device_id))


class ScriptedLink:
    """Reports to its route, as the real ones do; what it is told to disconnect is kept for the test to act on."""

    def __init__(self, route: Route) -> None:
        self.route = route
        route.link = self
        self.present: set[str] = set()
        self.sent: list[tuple[str, Outbound]] = []
        self.told_to_go: list[str] = []

    def send(self, device_id: str, message: Outbound) -> bool:
        if device_id in self.present:
            self.sent.append((device_id, message))
        return device_id in self.present

    def connected(self, device_id: str) -> bool:
        return device_id in self.present

    def disconnect(self, device_id: str) -> None:
        self.told_to_go.append(device_id)

    def enter(self, identity: DeviceIdentity, peer_ip: str = "") -> None:
        self.present.add(identity.device_id)
        self.route.device_connected(identity, peer_ip)

    def leave(self, identity: DeviceIdentity) -> None:
        self.present.discard(identity.device_id)
        self.route.device_disconnected(identity)


def setup() -> tuple[Links, Recorder, ScriptedLink, ScriptedLink]:
    recorder = Recorder()
    links = Links(recorder)
    return links, recorder, ScriptedLink(links.route()), ScriptedLink(links.route())


def test_each_device_is_reached_on_its_link() -> None:
    links, recorder, front, broker = setup()
    assert not links.send(ALICE.device_id, STOP)
    assert not links.connected(ALICE.device_id)
    links.disconnect(ALICE.device_id)
    front.enter(ALICE, "192.0.2.1")
    broker.enter(BOB)
    broker.route.device_message(BOB, Abort("s"))
    assert links.send(ALICE.device_id, STOP)
    assert links.send(BOB.device_id, STOP)
    assert (front.sent, broker.sent) == ([(ALICE.device_id, STOP)], [(BOB.device_id, STOP)])
    assert links.connected(BOB.device_id)
    links.disconnect(BOB.device_id)
    assert (front.told_to_go, broker.told_to_go) == ([], [BOB.device_id])
    broker.leave(BOB)
    assert not links.send(BOB.device_id, STOP)
    assert recorder.heard == [
        ("connected", ALICE.device_id, "192.0.2.1"),
        ("connected", BOB.device_id, ""),
        ("message", BOB.device_id, Abort("s")),
        ("disconnected", BOB.device_id),
    ]


def test_a_device_that_moves_is_one_device_all_the_time() -> None:
    links, recorder, front, broker = setup()
    broker.enter(ALICE)
    front.enter(ALICE, "192.0.2.1")
    assert broker.told_to_go == [ALICE.device_id]
    broker.route.device_message(ALICE, Abort("late"))
    broker.leave(ALICE)
    assert links.send(ALICE.device_id, STOP)
    assert front.sent
    broker.enter(ALICE)
    assert front.told_to_go == [ALICE.device_id]
    front.leave(ALICE)
    front.enter(ALICE, "192.0.2.1")
    assert links.moves == 3
    front.enter(ALICE, "192.0.2.2")
    assert (links.moves, front.told_to_go) == (3, [ALICE.device_id]), "anew on its own link: that link's own business"
    front.leave(ALICE)
    assert [one[0] for one in recorder.heard] == ["connected"] * 5 + ["disconnected"]


def test_what_was_missed_on_the_link_that_a_device_has_left_is_no_news() -> None:
    links, recorder, front, broker = setup()
    front.enter(ALICE, "192.0.2.1")
    front.route.messages_missed(ALICE, [STOP])
    broker.enter(ALICE)
    front.route.messages_missed(ALICE, [STOP])
    assert [one for one in recorder.heard if one[0] == "missed"] == [("missed", ALICE.device_id, [STOP])]
    assert links.moves == 1
