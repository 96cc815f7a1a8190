"""The link over a real mosquitto with the shipped configuration and access rules."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mqtt_control.broker import Broker, BrokerTlsError
from mqtt_control.credentials import mint_for_broker
from mqtt_control.identity import DeviceIdentity
from mqtt_control.messages import Abort, Goodbye, Hello, Inbound, Listen, McpOut, Outbound, Stt, TtsStop
from settings.model import Broker as BrokerOptions
from settings.model import BrokerTls
from tests.mosquitto import BRIDGE, HOME, Mosquitto, free_port, needs_mosquitto

SECRET = b"broker-test"
ALICE = DeviceIdentity("02:00:00:00:00:0a", "a1")
BOB = DeviceIdentity("02:00:00:00:00:0b", "b1")
MALLORY = DeviceIdentity("02:00:00:00:00:0c", "m1")
"""Has a password at the broker, but the registry does not know it."""
KNOWN = {one.device_id: one for one in (ALICE, BOB)}
HELLO = b'{"type":"hello","version":3,"transport":"udp"}'
ABORT = b'{"type":"abort","session_id":"s"}'

pytestmark = needs_mosquitto


class Recorder:
    """A listener that keeps what it hears, in order."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def device_connected(self, identity: DeviceIdentity, peer_ip: str) -> None:
        self.heard.append(("connected", identity, peer_ip))

    def device_message(self, identity: DeviceIdentity, message: Inbound) -> None:
        self.heard.append(("message", identity, message))

    def messages_missed(self, identity: DeviceIdentity, messages: Sequence[Outbound]) -> None:
        raise AssertionError("nobody knows what a broker's devices have missed")

    def device_disconnected(self, identity: DeviceIdentity) -> None:
        self.heard.append(("disconnected", identity))

    async def until(self, count: int) -> list[tuple[Any, ...]]:
        await true(lambda: len(self.heard) >= count)
        return self.heard


async def true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[Broker]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(broker.run())
        try:
            yield broker
        finally:
            await broker.aclose()
            await task


@asynccontextmanager
async def linked(mosquitto: Mosquitto, **options: Any) -> AsyncIterator[tuple[Broker, Recorder]]:
    """A Broker that is connected."""
    recorder = Recorder()
    async with running(Broker(mosquitto.options(**options), authorise=KNOWN.get, listener=recorder)) as broker:
        await true(broker.online.is_set)
        yield broker, recorder


def login(identity: DeviceIdentity) -> tuple[str, str]:
    credentials = mint_for_broker(SECRET, identity)
    return credentials.username, credentials.password


@asynccontextmanager
async def device(mosquitto: Mosquitto, identity: DeviceIdentity, **members: Any) -> AsyncIterator[aiomqtt.Client]:
    """A client of the broker as a subscribing device is one."""
    async with mosquitto.client(login(identity), identifier=identity.mqtt_client_id, **members) as client:
        await client.subscribe(f"xiaozhi/{identity.node}/down", qos=1)
        yield client


async def say(client: aiomqtt.Client, payload: bytes, identity: DeviceIdentity = ALICE, **members: Any) -> None:
    await client.publish(f"xiaozhi/{identity.node}/up", payload, **members)


async def hears(client: aiomqtt.Client) -> aiomqtt.Message:
    async with asyncio.timeout(10):
        return await anext(aiter(client.messages))


async def hears_nothing(client: aiomqtt.Client, seconds: float = 0.3) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            pytest.fail(str((await anext(aiter(client.messages))).topic))


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncGenerator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    broker.add_devices(SECRET, (ALICE, BOB, MALLORY))
    async with broker:
        yield broker


# -- messages ----------------------------------------------------------------------------------------------------------
async def test_a_device_is_heard_and_answered_on_its_topics(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto) as (broker, recorder), device(mosquitto, ALICE) as alice:
        assert not broker.send(ALICE.device_id, TtsStop("s")), "nobody has been heard yet"
        await say(alice, HELLO)
        await say(alice, b'{"type":"listen","session_id":"s","state":"start","mode":"auto"}', qos=1)
        heard = await recorder.until(3)
        assert heard[0] == ("connected", ALICE, "")
        assert isinstance(heard[1][2], Hello)
        assert isinstance(heard[2][2], Listen)
        assert broker.connected(ALICE.device_id)
        assert broker.send(ALICE.device_id, Stt("s", "hello"))
        message = await hears(alice)
        assert (message.topic.value, message.payload, message.qos, message.retain) == (
            "xiaozhi/02000000000a/down",
            b'{"type":"stt","session_id":"s","text":"hello"}',
            0,
            False,
        )
        assert not broker.send(BOB.device_id, TtsStop("s"))
        assert not broker.send(ALICE.device_id, McpOut("s", {"text": "x" * 9000})), "longer than devices take"
        assert (broker.stats.messages_in, broker.stats.messages_out, broker.stats.unsendable_messages) == (2, 1, 1)
        assert (broker.stats.online, broker.stats.devices) == (1, 1)
    assert recorder.heard[-1] == ("disconnected", ALICE)
    assert (broker.stats.online, broker.stats.devices) == (0, 0)


async def test_only_devices_of_the_registry_are_heard(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto) as (broker, recorder), device(mosquitto, MALLORY) as mallory, device(mosquitto, BOB) as bob:
        await say(mallory, HELLO, MALLORY)
        await true(lambda: broker.stats.unknown_devices == 1)
        await say(bob, HELLO, BOB)
        assert await recorder.until(2) == [("connected", BOB, ""), ("message", BOB, Hello(version=3, transport="udp"))]
        assert not broker.connected(MALLORY.device_id)


async def test_what_cannot_be_read_costs_nobody_anything(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto) as (broker, recorder), mosquitto.client(BRIDGE) as anything:
        for payload in (b"", b"\xff\xfe", b"[]", b'{"type":"surprise"}', b"[" * 10_000):
            await say(anything, payload)
        await say(anything, HELLO, retain=True)
        await say(anything, HELLO, BOB)
        heard = await recorder.until(4)
        # live, a retained message has no retained flag; it is the copies that a new subscription gets that are old
        assert [one[:2] for one in heard] == [("connected", ALICE), ("message", ALICE), ("connected", BOB), ("message", BOB)][: len(heard)]
        assert broker.stats.bad_messages == 5
        for topic in ("xiaozhi/02000000000A/up", "xiaozhi/bridge/up", "xiaozhi/02:00:00:00:00:0a/up", "xiaozhi/02000000000/up"):
            await anything.publish(topic, HELLO)
        await true(lambda: broker.stats.foreign_topics == 4)
        assert len(recorder.heard) == 4


async def test_retained_messages_open_no_session(mosquitto: Mosquitto) -> None:
    async with mosquitto.client(BRIDGE) as anything:
        await say(anything, HELLO, retain=True, qos=1)
        await anything.publish(f"xiaozhi/{ALICE.node}/availability", b"offline", retain=True, qos=1)
        async with linked(mosquitto) as (broker, recorder):
            await true(lambda: broker.stats.retained_ignored == 2)
            await say(anything, ABORT)
            assert [one[0] for one in await recorder.until(2)] == ["connected", "message"]


async def test_a_listener_or_registry_that_fails_does_not_end_the_link(mosquitto: Mosquitto) -> None:
    class Broken(Recorder):
        def device_message(self, identity: DeviceIdentity, message: Inbound) -> None:
            super().device_message(identity, message)
            if isinstance(message, Hello):
                raise TypeError("a bug")

    def authorise(device_id: str) -> DeviceIdentity | None:
        if device_id == BOB.device_id:
            raise LookupError("another bug")
        return KNOWN.get(device_id)

    recorder = Broken()
    async with running(Broker(mosquitto.options(), authorise=authorise, listener=recorder)) as broker, device(mosquitto, ALICE) as alice:
        await true(broker.online.is_set)
        async with device(mosquitto, BOB) as bob:
            await say(bob, HELLO, BOB)
            await say(alice, HELLO)
            await say(alice, ABORT)
            await recorder.until(3)
        assert isinstance(recorder.heard[2][2], Abort)
        assert broker.stats.listener_errors == 2


async def test_a_full_queue_refuses_and_counts(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto, queue_messages=10) as (broker, recorder), device(mosquitto, ALICE) as alice:
        await say(alice, HELLO)
        await recorder.until(2)
        accepted = [broker.send(ALICE.device_id, Stt("s", str(number))) for number in range(15)]
        assert accepted == [True] * 10 + [False] * 5, "nothing was sent between: the loop has not run"
        assert broker.stats.outbox_refused == 5
        texts = [bytes((await hears(alice)).payload) for _ in range(10)]
        assert [text.split(b'"')[-2] for text in texts] == [b"%d" % number for number in range(10)]


# -- who may what ------------------------------------------------------------------------------------------------------
async def test_a_device_reaches_its_own_topics_only(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto) as (broker, recorder), device(mosquitto, BOB) as bob, device(mosquitto, ALICE) as alice:
        await say(bob, HELLO, BOB)
        await recorder.until(2)
        for topic in ("xiaozhi/+/down", "xiaozhi/#", "#", f"xiaozhi/{BOB.node}/down", "xiaozhi/+/up"):
            with suppress(aiomqtt.MqttError):
                await alice.subscribe(topic)
        # as BOB; to BOB, in the name of the server; what the home is told of her
        for topic in (f"xiaozhi/{BOB.node}/up", f"xiaozhi/{BOB.node}/down", f"xiaozhi/{ALICE.node}/state", "homeassistant/x/config"):
            await alice.publish(topic, ABORT, qos=1)
        await alice.publish(f"xiaozhi/{ALICE.node}/down", ABORT, qos=1)
        assert broker.send(BOB.device_id, TtsStop("secret"))
        assert b"secret" in bytes((await hears(bob)).payload)
        await say(alice, HELLO)
        assert [one[:2] for one in await recorder.until(4)][2:] == [("connected", ALICE), ("message", ALICE)]
        assert broker.send(ALICE.device_id, Stt("s", "for you"))
        assert b"for you" in bytes((await hears(alice)).payload), "the first thing she hears, BOB's was not hers"
        await hears_nothing(alice)
        await hears_nothing(bob)


async def test_the_home_reads_all_and_writes_commands(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto) as (broker, recorder), mosquitto.client(HOME) as home, device(mosquitto, ALICE) as alice:
        await home.subscribe("xiaozhi/#")
        for leaf in ("up", "down", "availability", "state"):
            await home.publish(f"xiaozhi/{ALICE.node}/{leaf}", HELLO, qos=1)
        await home.publish(f"xiaozhi/{ALICE.node}/say", b"tea is ready", qos=1)
        await home.publish(f"xiaozhi/{ALICE.node}/volume/set", b"30", qos=1)
        assert [(await hears(home)).topic.value.rpartition(ALICE.node)[2] for _ in range(2)] == ["/say", "/volume/set"]
        await say(alice, HELLO)
        await recorder.until(2)
        assert (await hears(home)).topic.value == f"xiaozhi/{ALICE.node}/up"
        assert broker.stats.messages_in == 1
        await hears_nothing(alice)


@pytest.mark.parametrize("user", [("02000000000a", "wrong"), ("02000000000f", "x"), ("", "")])
async def test_nobody_comes_in_without_a_password(mosquitto: Mosquitto, user: tuple[str, str]) -> None:
    with pytest.raises(aiomqtt.MqttError):
        async with mosquitto.client(user):
            pytest.fail("let in")


# -- presence ----------------------------------------------------------------------------------------------------------
async def test_a_will_ends_presence(tmp_path: Path) -> None:
    edit = {"#pattern write xiaozhi/%u/availability": "pattern write xiaozhi/%u/availability"}
    mosquitto = Mosquitto(tmp_path, edit=edit)
    mosquitto.add_devices(SECRET, [ALICE])
    async with mosquitto, linked(mosquitto) as (broker, recorder):
        # CONNECT with a retained will (MQTT 3.1.1 §3.1), PUBLISH, and gone without DISCONNECT
        texts = (ALICE.mqtt_client_id, f"xiaozhi/{ALICE.node}/availability", "offline", *login(ALICE))
        connect = bytes.fromhex("00044d51545404e60000") + b"".join(len(text).to_bytes(2, "big") + text.encode() for text in texts)
        topic = f"xiaozhi/{ALICE.node}/up".encode()
        publish = len(topic).to_bytes(2, "big") + topic + HELLO
        reader, writer = await asyncio.open_connection("127.0.0.1", mosquitto.port)
        for kind, body in ((0x10, connect), (0x30, publish)):
            length = [len(body)] if len(body) < 128 else [len(body) % 128 | 0x80, len(body) // 128]
            writer.write(bytes([kind, *length]) + body)
        assert await reader.readexactly(4) == bytes.fromhex("20020000")
        await recorder.until(2)
        writer.close()
        await writer.wait_closed()
        assert (await recorder.until(3))[2] == ("disconnected", ALICE)
        assert not broker.connected(ALICE.device_id)
        assert broker.stats.wills == 1
        async with device(mosquitto, ALICE) as alice:
            await say(alice, ABORT)
            assert [one[0] for one in await recorder.until(5)][3:] == ["connected", "message"]


async def test_long_silence_ends_presence(mosquitto: Mosquitto) -> None:
    recorder = Recorder()
    options = mosquitto.options().model_copy(update={"silence_s": 0.2})
    async with running(Broker(options, authorise=KNOWN.get, listener=recorder)) as broker, device(mosquitto, ALICE) as alice:
        await true(broker.online.is_set)
        await say(alice, HELLO)
        assert [one[0] for one in await recorder.until(3)] == ["connected", "message", "disconnected"]
        assert broker.stats.silences == 1
        await say(alice, HELLO)
        assert [one[0] for one in await recorder.until(5)][3:] == ["connected", "message"]


async def test_a_device_that_is_told_to_go_is_gone_until_it_is_heard(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto) as (broker, recorder), device(mosquitto, ALICE) as alice:
        broker.disconnect(ALICE.device_id)
        await say(alice, HELLO)
        await recorder.until(2)
        broker.send(ALICE.device_id, Stt("s", "on the way"))
        broker.send(ALICE.device_id, Goodbye("s"))
        broker.disconnect(ALICE.device_id)
        broker.disconnect(ALICE.device_id)
        assert not broker.connected(ALICE.device_id)
        assert not broker.send(ALICE.device_id, TtsStop("s"))
        assert len(recorder.heard) == 2, "not from within"
        await recorder.until(3)
        assert b"on the way" in bytes((await hears(alice)).payload)
        assert b"goodbye" in bytes((await hears(alice)).payload)
        await say(alice, ABORT)
        assert [one[0] for one in await recorder.until(5)] == ["connected", "message", "disconnected", "connected", "message"]


# -- the broker comes and goes -----------------------------------------------------------------------------------------
async def test_a_restart_of_the_broker_costs_no_session_and_no_message(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto) as (broker, recorder):
        async with device(mosquitto, ALICE) as alice, device(mosquitto, BOB) as bob:
            await say(alice, HELLO)
            await say(bob, HELLO, BOB)
            await recorder.until(4)
            await mosquitto.stop()
            await true(lambda: not broker.online.is_set())
            assert broker.connected(ALICE.device_id)
            assert broker.send(ALICE.device_id, Stt("s", "to alice"))
            assert broker.send(BOB.device_id, Stt("s", "to bob"))
            await asyncio.sleep(0.1)
        await mosquitto.start()
        await true(broker.online.is_set)
        async with device(mosquitto, ALICE) as alice, device(mosquitto, BOB) as bob:
            assert broker.send(ALICE.device_id, TtsStop("s"))
            await say(alice, ABORT)
            messages = [bytes((await hears(alice)).payload) for _ in range(2)]
            assert b"to alice" in messages[0], "heard again: at once, and in order"
            assert b"tts" in messages[1]
            assert b"to bob" in bytes((await hears(bob)).payload), "not heard again: after resubscribe_s"
        assert [one[0] for one in recorder.heard] == ["connected", "message"] * 2 + ["message"]
        assert (broker.stats.losses, broker.stats.connects) == (1, 2)


async def test_a_broker_that_stays_away_takes_its_devices_with_it(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto, outage_s=1) as (broker, recorder):
        async with device(mosquitto, ALICE) as alice:
            await say(alice, HELLO)
            await recorder.until(2)
            await mosquitto.stop()
        assert (await recorder.until(3))[2] == ("disconnected", ALICE)
        assert broker.stats.outages == 1
        assert not broker.send(ALICE.device_id, TtsStop("s"))


async def test_a_broker_that_is_not_there_yet_is_waited_for(mosquitto: Mosquitto) -> None:
    await mosquitto.stop()
    recorder = Recorder()
    async with running(Broker(mosquitto.options(), authorise=KNOWN.get, listener=recorder)) as broker:
        await true(lambda: broker.stats.connect_failures >= 1)
        await mosquitto.start()
        await true(broker.online.is_set)


@pytest.mark.parametrize("wrong", [{"password": "wrong"}, {"host": "name.invalid"}, {"username": "", "password": ""}])
async def test_a_broker_that_refuses_is_tried_again(mosquitto: Mosquitto, wrong: dict[str, str]) -> None:
    async with running(Broker(mosquitto.options(**wrong), authorise=KNOWN.get, listener=Recorder())) as broker:
        await true(lambda: broker.stats.connect_failures >= 2)
        assert not broker.online.is_set()


async def test_something_that_is_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqtt_control.broker.CALL_TIMEOUT_S", 0.2)
    writers: list[asyncio.StreamWriter] = []

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read()
        writer.close()

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    for answer in (mute, babble):
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        options = BrokerOptions(port=server.sockets[0].getsockname()[1], reconnect_max_s=1)
        async with running(Broker(options, authorise=KNOWN.get, listener=Recorder())) as broker:
            await true(lambda: broker.stats.connect_failures >= 2)
        server.close()
        await server.wait_closed()
    await true(lambda: all(writer.is_closing() for writer in writers))


async def test_cancelled_at_any_moment_it_closes_cleanly(mosquitto: Mosquitto) -> None:
    """What it leaves open would be a ResourceWarning, which is an error here; the broker's log shows no client left."""
    for pause_s in (0, 0.001, 0.003, 0.01, 0.05, 0.3):
        broker = Broker(mosquitto.options(), authorise=KNOWN.get, listener=Recorder())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(pause_s):
                await broker.run()
        await broker.aclose()
        assert (broker.stats.online, broker.stats.devices) == (0, 0)
    async with linked(mosquitto) as (broker, _):
        assert broker.stats.connects == 1


async def test_closing_sends_what_is_queued(mosquitto: Mosquitto) -> None:
    async with device(mosquitto, ALICE) as alice:
        async with linked(mosquitto) as (broker, recorder):
            await say(alice, HELLO)
            await recorder.until(2)
            broker.send(ALICE.device_id, Stt("s", "bye"))
            broker.send(ALICE.device_id, Goodbye("s"))
        assert b"bye" in bytes((await hears(alice)).payload)
        assert b"goodbye" in bytes((await hears(alice)).payload)
        assert recorder.heard[-1] == ("disconnected", ALICE)


async def test_closing_what_never_ran() -> None:
    await Broker(BrokerOptions(), authorise=KNOWN.get, listener=Recorder()).aclose()


# -- TLS ---------------------------------------------------------------------------------------------------------------
def certificate(directory: Path) -> tuple[Path, Path]:
    """Self-signed, for 127.0.0.1: certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "certificate.pem", directory / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return paths


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_tls(tmp_path: Path) -> None:
    paths = certificate(tmp_path)
    async with Mosquitto(tmp_path, tls=paths) as mosquitto:
        async with linked(mosquitto, tls=BrokerTls(enabled=True, ca_file=paths[0])) as (broker, _):
            assert broker.stats.online
        options = mosquitto.options(tls=BrokerTls(enabled=True))
        async with running(Broker(options, authorise=KNOWN.get, listener=Recorder())) as stranger:
            await true(lambda: stranger.stats.connect_failures >= 1)  # an authority that nobody knows
    wrong = BrokerOptions(port=free_port(), tls=BrokerTls(enabled=True, ca_file=tmp_path / "none.pem"))
    with pytest.raises(BrokerTlsError, match="ca_file"):
        Broker(wrong, authorise=KNOWN.get, listener=Recorder())
    gc.collect()  # paho leaves the socket of a failed handshake to the garbage collector


# -- on uvloop, as in production ---------------------------------------------------------------------------------------
Scenario = Callable[[Mosquitto], Coroutine[Any, Any, None]]


@pytest.mark.parametrize(
    "scenario",
    [
        test_a_device_is_heard_and_answered_on_its_topics,
        test_a_restart_of_the_broker_costs_no_session_and_no_message,
        test_cancelled_at_any_moment_it_closes_cleanly,
        test_closing_sends_what_is_queued,
    ],
)
def test_on_uvloop(scenario: Scenario, tmp_path: Path) -> None:
    assert inspect.iscoroutinefunction(scenario)

    async def play() -> None:
        mosquitto = Mosquitto(tmp_path)
        mosquitto.add_devices(SECRET, (ALICE, BOB, MALLORY))
        async with mosquitto:
            await scenario(mosquitto)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())


async def test_devices_of_another_process_are_left_alone(mosquitto: Mosquitto) -> None:
    ours = {ALICE.device_id, BOB.device_id}
    recorder = Recorder()
    made = Broker(mosquitto.options(), authorise=KNOWN.get, listener=recorder, mine=ours.__contains__)
    async with running(made) as broker, device(mosquitto, ALICE) as alice, device(mosquitto, BOB) as bob:
        await true(broker.online.is_set)
        await say(alice, HELLO)
        await recorder.until(2)
        await say(bob, HELLO, BOB)
        await recorder.until(4)
        ours.discard(ALICE.device_id)
        assert broker.not_mine() == [ALICE.device_id]
        assert broker.send(ALICE.device_id, Goodbye("s"))
        broker.disconnect(ALICE.device_id)
        assert broker.not_mine() == [], "it is leaving already"
        assert (await hears(alice)).payload == b'{"type":"goodbye","session_id":"s"}', "what was said last still goes out"
        assert (await recorder.until(5))[4] == ("disconnected", ALICE)
        await say(alice, ABORT)
        await true(lambda: broker.stats.others_messages == 1)
        assert broker.stats.devices == 1
        assert len(recorder.heard) == 5


async def test_a_mark_comes_after_what_the_broker_had_before(mosquitto: Mosquitto) -> None:
    async with linked(mosquitto) as (broker, recorder), device(mosquitto, ALICE) as alice:
        for _ in range(50):
            await say(alice, ABORT, qos=1)  # acknowledged: the broker has it
        heard: list[int] = []
        broker.when_caught_up(lambda: heard.append(len(recorder.heard)))
        await true(lambda: bool(heard))
        assert heard == [51]
        assert broker.stats.foreign_topics == 0


async def test_without_a_connection_there_is_nothing_to_catch_up_with(mosquitto: Mosquitto) -> None:
    broker = Broker(mosquitto.options(), authorise=KNOWN.get, listener=Recorder())
    done: list[bool] = []
    broker.when_caught_up(lambda: done.append(True))
    assert done == [True]


async def test_a_mark_that_the_rules_forbid_is_not_waited_for_long(tmp_path: Path) -> None:
    directory = tmp_path / "strict"
    directory.mkdir()
    strict = Mosquitto(directory, edit={"topic readwrite xiaozhi/#": "topic read xiaozhi/#\ntopic write xiaozhi/+/down"})
    async with strict, linked(strict) as (broker, _):
        done: list[bool] = []
        broker.when_caught_up(lambda: done.append(True))
        await true(lambda: bool(done))
