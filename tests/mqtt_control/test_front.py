"""The front over real sockets: a client that speaks in bytes, and paho and aiomqtt as clients we did not write.

Every scenario is a coroutine without arguments, so that the last test can run them again on uvloop, as production does.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import structlog
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from mqtt_control.codec import Connack, Connect, Decoder, Packet, Pingresp, Puback, Pubcomp, Publish, Pubrec, Suback, Subscribe, encode
from mqtt_control.credentials import Credentials, mint, verify
from mqtt_control.front import Front, _ip_of
from mqtt_control.identity import DeviceIdentity, IdentityError, parse_client_id
from mqtt_control.messages import Abort, Goodbye, Hello, Inbound, Listen, McpOut, Outbound, Stt, TtsStop
from settings.model import Mqtt

SECRET = b"front-test"
ALICE = DeviceIdentity("02:00:00:00:00:0a", "a1")
BOB = DeviceIdentity("02:00:00:00:00:0b", "b1")
HELLO = b'{"type":"hello","version":3,"transport":"udp"}'


def authenticate(client_id: str, username: str, password: bytes) -> DeviceIdentity | None:
    try:
        identity = parse_client_id(client_id)
    except IdentityError:
        return None
    return identity if verify(SECRET, client_id=client_id, username=username, password=password) else None


class Recorder:
    """A listener that keeps what it hears, in order."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.front: Front | None = None
        self._news = asyncio.Event()

    def device_connected(self, identity: DeviceIdentity, peer_ip: str) -> None:
        self._note("connected", identity, peer_ip)

    def device_message(self, identity: DeviceIdentity, message: Inbound) -> None:
        self._note("message", identity, message)

    def messages_missed(self, identity: DeviceIdentity, messages: Sequence[Outbound]) -> None:
        self._note("missed", identity, list(messages))

    def device_disconnected(self, identity: DeviceIdentity) -> None:
        self._note("disconnected", identity)

    def _note(self, *facts: Any) -> None:
        self.heard.append(facts)
        self._news.set()

    async def until(self, count: int) -> list[tuple[Any, ...]]:
        """Everything heard so far, once it is at least `count`."""
        async with asyncio.timeout(10):
            while len(self.heard) < count:
                self._news.clear()
                await self._news.wait()
        return self.heard

    def kinds(self) -> list[str]:
        return [facts[0] for facts in self.heard]


@asynccontextmanager
async def running_front(listener: Recorder | None = None, **options: Any) -> AsyncGenerator[tuple[Front, Any, int]]:
    """A front on a free port; fails the test if an exception reaches the event loop."""
    escaped: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: escaped.append(context))
    recorder = listener or Recorder()
    front = Front(Mqtt(**options), authenticate=authenticate, listener=recorder)
    recorder.front = front
    port = await front.start(host="127.0.0.1", port=0)
    try:
        yield front, recorder, port
    finally:
        await front.aclose()
    assert front.stats.connections == 0
    assert front.stats.devices == 0
    assert escaped == []


class Device:
    """A client that sends the bytes it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._decoder = Decoder(1 << 20)
        self._packets: list[Packet] = []

    @classmethod
    async def open(cls, port: int, **options: Any) -> Device:
        return cls(*await asyncio.open_connection("127.0.0.1", port, **options))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def packet(self) -> Packet | None:
        """The next packet from the front; None when it has closed the connection."""
        async with asyncio.timeout(10):
            while not self._packets:
                try:
                    data = await self._reader.read(65536)
                except ConnectionResetError:
                    return None
                if not data:
                    return None
                self._packets += self._decoder.feed(data)
        return self._packets.pop(0)

    async def closed(self) -> bool:
        """Whether the front says nothing more and closes."""
        return await self.packet() is None

    async def quiet(self) -> bool:
        """Whether nothing came before the answer to a ping."""
        self.send(b"\xc0\x00")
        return await self.packet() == Pingresp()

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


@asynccontextmanager
async def device(port: int, **options: Any) -> AsyncGenerator[Device]:
    client = await Device.open(port, **options)
    try:
        yield client
    finally:
        await client.close()


def connect_bytes(credentials: Credentials, *, keepalive_s: int = 240) -> bytes:
    return encode(Connect(credentials.client_id, keepalive_s, True, credentials.username, credentials.password.encode()))


def connect_of(identity: DeviceIdentity, *, keepalive_s: int = 240) -> bytes:
    return connect_bytes(mint(SECRET, identity, claims={}), keepalive_s=keepalive_s)


@asynccontextmanager
async def connected_device(port: int, identity: DeviceIdentity, **options: Any) -> AsyncGenerator[Device]:
    async with device(port) as client:
        client.send(connect_of(identity, **options))
        assert await client.packet() == Connack(0)
        yield client


def publish(payload: bytes) -> bytes:
    return encode(Publish("device-server", payload))


# -- B. MQTT -----------------------------------------------------------------------------------------------------------
async def test_check_018_good_credentials_are_let_in() -> None:
    async with running_front() as (front, listener, port), connected_device(port, ALICE):
        assert listener.heard == [("connected", ALICE, "127.0.0.1")]
        assert front.connected(ALICE.device_id)
        assert front.stats.devices == 1


async def test_check_018_bad_credentials_get_connack_5_or_4_and_nothing_is_processed() -> None:
    good = mint(SECRET, ALICE, claims={})
    bob = mint(SECRET, BOB, claims={})
    two_parts = "GID_default@@@02_00_00_00_00_0a"
    cases = [
        (Credentials(good.client_id, good.username, "wrong"), 5),
        (Credentials(good.client_id, good.username, bob.password), 5),
        (Credentials(good.client_id, bob.username, bob.password), 5),
        (Credentials(two_parts, good.username, good.password), 5),
        (Credentials("", good.username, good.password), 5),
        (Credentials(good.client_id, good.username, ""), 4),
        (Credentials(good.client_id, "", good.password), 4),
    ]
    async with running_front() as (front, listener, port):
        for credentials, code in cases:
            async with device(port) as client:
                client.send(connect_bytes(credentials) + publish(HELLO) + b"\xc0\x00")
                assert await client.packet() == Connack(code)
                assert await client.closed()
        async with device(port) as client:  # neither user name nor password
            client.send(encode(Connect(good.client_id)))
            assert await client.packet() == Connack(4)
            assert await client.closed()
        assert listener.heard == []
        assert front.stats.connects_refused == len(cases) + 1
        assert front.stats.messages_in == 0


async def test_check_018_a_failing_judge_lets_nobody_in() -> None:
    def broken(client_id: str, username: str, password: bytes) -> DeviceIdentity | None:
        raise OSError("database gone")

    listener = Recorder()
    front = Front(Mqtt(), authenticate=broken, listener=listener)
    port = await front.start(host="127.0.0.1", port=0)
    async with device(port) as client:
        client.send(connect_of(ALICE))
        assert await client.packet() == Connack(3)
        assert await client.closed()
    await front.aclose()
    assert listener.heard == []
    assert front.stats.listener_errors == 1


async def test_check_019_and_029_messages_come_without_subscribe() -> None:
    async with running_front() as (front, _, port), connected_device(port, ALICE) as client:
        assert front.send(ALICE.device_id, Stt("s", "hi"))
        expected = Publish("devices/p2p/02_00_00_00_00_0a", b'{"type":"stt","session_id":"s","text":"hi"}')
        assert await client.packet() == expected
        assert await client.quiet()
        assert front.stats.messages_out == 1


async def test_check_020_subscribing_changes_nothing() -> None:
    async with running_front() as (front, _, port), connected_device(port, ALICE) as alice, connected_device(port, BOB) as bob:
        wanted = (("#", 2), ("devices/p2p/#", 1), ("devices/p2p/02_00_00_00_00_0a", 0), ("$SYS/#", 0)) + (("t" * 200, 0),) * 50
        alice.send(encode(Subscribe(1, wanted)))
        assert await alice.packet() == Suback(1, (0,) * len(wanted))
        bob.send(publish(HELLO))
        bob.send(encode(Publish("devices/p2p/02_00_00_00_00_0a", HELLO)))
        assert await bob.quiet()
        assert front.send(BOB.device_id, TtsStop("b"))
        assert front.send(ALICE.device_id, TtsStop("a"))
        message = await alice.packet()
        assert isinstance(message, Publish)
        assert message.payload == b'{"type":"tts","session_id":"a","state":"stop"}'
        assert message.qos == 0
        assert await alice.quiet()  # not a second time, and nothing of Bob's


async def test_check_021_a_message_comes_from_who_the_connection_belongs_to() -> None:
    async with running_front() as (_, listener, port), connected_device(port, ALICE) as client:
        client.send(encode(Publish("devices/p2p/02_00_00_00_00_0b", b'{"type":"abort","device_id":"02:00:00:00:00:0b"}')))
        heard = await listener.until(2)
        assert heard[1] == ("message", ALICE, Abort())


async def test_check_022_keepalive_is_enforced_and_0_is_none() -> None:
    async with running_front() as (front, listener, port), connected_device(port, BOB, keepalive_s=0) as bob:
        async with connected_device(port, ALICE, keepalive_s=1) as alice:
            assert await alice.closed()
        assert (await listener.until(3))[2] == ("disconnected", ALICE)
        assert front.stats.keepalive_timeouts == 1
        assert await bob.quiet()


async def test_check_023_newest_connection_wins() -> None:
    async with running_front() as (front, listener, port), connected_device(port, ALICE) as old:
        async with connected_device(port, ALICE) as new:
            assert await old.closed()
            assert front.send(ALICE.device_id, Stt("s", "for the new one"))
            assert isinstance(await new.packet(), Publish)
            await old.close()
            assert await new.quiet()
            assert listener.kinds() == ["connected", "connected"]
            assert front.stats.takeovers == 1
            assert front.stats.devices == 1
        heard = await listener.until(3)
        assert heard[2] == ("disconnected", ALICE)
        assert not front.connected(ALICE.device_id)


async def test_check_023_what_the_old_connection_still_sends_is_lost() -> None:
    async with running_front() as (_, listener, port), connected_device(port, ALICE) as old, connected_device(port, ALICE) as new:
        old.send(publish(HELLO))
        new.send(publish(b'{"type":"goodbye","session_id":"s"}'))
        heard = await listener.until(3)
        assert heard[2] == ("message", ALICE, Goodbye("s"))
        assert len(heard) == 3


async def test_check_018_a_wrong_password_does_not_touch_the_victim() -> None:
    async with running_front() as (front, listener, port), connected_device(port, ALICE) as victim:
        for _ in range(5):
            async with device(port) as attacker:
                good = mint(SECRET, ALICE, claims={})
                attacker.send(connect_bytes(Credentials(good.client_id, good.username, "guess")))
                assert await attacker.packet() == Connack(5)
                assert await attacker.closed()
        assert await victim.quiet()
        assert front.connected(ALICE.device_id)
        assert listener.kinds() == ["connected"]
        assert front.stats.takeovers == 0


async def test_check_024_byte_by_byte_and_all_at_once() -> None:
    async with running_front() as (_, listener, port):
        async with device(port) as slow:
            slow.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in connect_of(ALICE) + publish(HELLO):
                slow.send(bytes((byte,)))
                await asyncio.sleep(0)
            assert await slow.packet() == Connack(0)
            assert (await listener.until(2))[1] == ("message", ALICE, Hello())
        async with device(port) as fast:
            fast.send(connect_of(BOB) + publish(HELLO) + b"\xc0\x00" + publish(b'{"type":"listen","state":"start"}') + b"\xe0\x00")
            assert await fast.packet() == Connack(0)
            assert await fast.packet() == Pingresp()
            assert await fast.closed()
        heard = await listener.until(7)
        assert [facts for facts in heard if facts[1] == BOB] == [
            ("connected", BOB, "127.0.0.1"),
            ("message", BOB, Hello()),
            ("message", BOB, Listen(state="start")),
            ("disconnected", BOB),
        ]


async def test_check_025_64_kb_are_taken_and_more_than_the_limit_ends_only_that_client() -> None:
    async with running_front(max_packet_bytes=100_000) as (front, listener, port), connected_device(port, BOB) as bob:
        async with connected_device(port, ALICE) as alice:
            alice.send(publish(b'{"type":"mcp","payload":{"text":"' + b"x" * 65536 + b'"}}'))
            heard = await listener.until(3)
            assert len(heard[2][2].payload["text"]) == 65536
            alice.send(publish(b"x" * 100_000))
            assert await alice.closed()
        assert (await listener.until(4))[3] == ("disconnected", ALICE)
        assert front.stats.oversize_packets == 1
        assert await bob.quiet()


async def test_check_026_unreadable_messages_do_not_end_the_connection() -> None:
    bad = [b"", b"{", b"[]", b"{}", b'{"type":7}', b'{"type":"nothing"}', b"\xff\xfe", b'{"type":"mcp","payload":' + b'{"a":' * 20000]
    async with running_front() as (front, listener, port), connected_device(port, ALICE) as client:
        with structlog.testing.capture_logs() as logs:
            for payload in bad:
                client.send(publish(payload))
            client.send(publish(HELLO))
            heard = await listener.until(2)
        assert heard[1] == ("message", ALICE, Hello())
        assert front.stats.bad_messages == len(bad)
        assert len([line for line in logs if line["event"] == "message ignored"]) == 3
        assert await client.quiet()


async def test_check_027_qos_1_and_2() -> None:
    async with running_front() as (_, listener, port), connected_device(port, ALICE) as client:
        client.send(encode(Publish("t", HELLO, 1, packet_id=5)))
        assert await client.packet() == Puback(5)
        for dup in (False, True):
            client.send(encode(Publish("t", b'{"type":"abort"}', 2, dup=dup, packet_id=6)))
            assert await client.packet() == Pubrec(6)
        client.send(bytes.fromhex("62 02 0006"))
        assert await client.packet() == Pubcomp(6)
        assert [facts[2] for facts in listener.heard if facts[0] == "message"] == [Hello(), Abort()]


async def test_check_028_strangers_and_slow_ones_are_closed() -> None:
    async with running_front(connect_timeout_s=0.3) as (front, listener, port):
        for raw in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\xc0\x00", b"\x00"):
            async with device(port) as client:
                client.send(raw)
                assert await client.closed()
        async with device(port) as client:
            client.send(bytes.fromhex("10 0D 0004 4D515454 05 02 0000 00 0000"))
            assert await client.packet() == Connack(1)
            assert await client.closed()
        async with device(port) as client:
            client.send(connect_of(ALICE)[:-1])
            assert await client.closed()
        async with device(port) as client:
            assert await client.closed()
        assert front.stats.connect_timeouts == 2
        assert listener.heard == []


# -- robustness --------------------------------------------------------------------------------------------------------
async def test_a_client_that_does_not_read_is_closed() -> None:
    async with running_front(write_buffer_bytes=65536) as (front, listener, port), connected_device(port, BOB) as bob:
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(lazy, ("127.0.0.1", port))
            await loop.sock_sendall(lazy, connect_of(ALICE))
            await listener.until(2)
            sent_bytes = 0
            message = McpOut("", {"x": "y" * 4000})
            while front.send(ALICE.device_id, message):
                sent_bytes += 4000
                assert sent_bytes < 4_000_000
                await asyncio.sleep(0)
            assert not front.connected(ALICE.device_id)
            heard = await listener.until(4)
            assert heard[2][:2] == ("missed", ALICE)
            assert set(map(type, heard[2][2])) == {McpOut}
            assert heard[3] == ("disconnected", ALICE)
        assert front.stats.slow_readers == 1
        assert await bob.quiet()


async def test_connections_are_limited() -> None:
    async with running_front(max_connections=2) as (front, _, port), connected_device(port, ALICE) as alice, connected_device(port, BOB):
        async with device(port) as third:
            assert await third.closed()
        assert front.stats.connections_refused_full == 1
        assert await alice.quiet()


async def test_a_failing_listener_costs_no_connection() -> None:
    class Failing(Recorder):
        def device_message(self, identity: DeviceIdentity, message: Inbound) -> None:
            raise RuntimeError("bug")

    async with running_front(Failing()) as (front, _, port), connected_device(port, ALICE) as client:
        client.send(publish(HELLO))
        assert await client.quiet()
        assert front.stats.listener_errors == 1


async def test_what_is_sent_on_connecting_comes_behind_the_connack() -> None:
    class Greeter(Recorder):
        def device_connected(self, identity: DeviceIdentity, peer_ip: str) -> None:
            assert self.front is not None
            assert self.front.send(identity.device_id, Goodbye("old"))

    async with running_front(Greeter()) as (_, _, port), connected_device(port, ALICE) as client:
        message = await client.packet()
        assert isinstance(message, Publish)
        assert message.payload == b'{"type":"goodbye","session_id":"old"}'


async def test_disconnect_sends_what_is_queued_and_tells_the_listener_later() -> None:
    async with running_front() as (front, listener, port), connected_device(port, ALICE) as client:
        front.send(ALICE.device_id, Goodbye("s"))
        front.disconnect(ALICE.device_id)
        assert listener.kinds() == ["connected"]
        assert not front.connected(ALICE.device_id)
        assert not front.send(ALICE.device_id, Goodbye("s"))
        assert isinstance(await client.packet(), Publish)
        assert await client.closed()
        assert (await listener.until(2))[1] == ("disconnected", ALICE)
        front.disconnect(ALICE.device_id)


async def test_a_listener_may_disconnect_from_within() -> None:
    class Bouncer(Recorder):
        def device_message(self, identity: DeviceIdentity, message: Inbound) -> None:
            super().device_message(identity, message)
            assert self.front is not None
            self.front.disconnect(identity.device_id)

    async with running_front(Bouncer()) as (_, listener, port), connected_device(port, ALICE) as client:
        client.send(publish(HELLO) * 3)
        assert await client.closed()
        await listener.until(3)
        assert listener.kinds() == ["connected", "message", "disconnected"]


async def test_check_093_closing_delivers_goodbyes_and_ends_everything() -> None:
    async with running_front() as (front, listener, port), connected_device(port, ALICE) as alice, connected_device(port, BOB) as bob:
        for identity in (ALICE, BOB):
            front.send(identity.device_id, Goodbye("s"))
        await front.aclose()
        assert listener.kinds()[2:] == ["disconnected", "disconnected"]
        for client in (alice, bob):
            assert isinstance(await client.packet(), Publish)
            assert await client.closed()
        with pytest.raises(OSError):  # noqa: PT011 - refused here, reset elsewhere
            await Device.open(port)


async def test_a_message_too_long_for_devices_is_not_sent() -> None:
    async with running_front() as (front, _, port), connected_device(port, ALICE) as client:
        assert not front.send(ALICE.device_id, McpOut("", {"x": "y" * 9000}))
        assert front.stats.unsendable_messages == 1
        assert await client.quiet()


async def test_sending_to_nobody_is_false() -> None:
    async with running_front() as (front, _, _port):
        assert not front.send(ALICE.device_id, TtsStop("s"))
        assert not front.connected(ALICE.device_id)
        front.disconnect(ALICE.device_id)


async def test_check_097_dual_stack_socket_serves_ipv4() -> None:
    async with running_front() as (front, listener, _):
        try:
            port = await front.start(host="::", port=0)
        except OSError:
            pytest.skip("no IPv6 here")
        async with device(port) as client:
            client.send(connect_of(ALICE))
            assert await client.packet() == Connack(0)
            assert listener.heard == [("connected", ALICE, "127.0.0.1")]


async def test_check_097_mapped_addresses_are_ipv4() -> None:
    assert _ip_of(("::ffff:192.0.2.7", 1, 0, 0)) == "192.0.2.7"
    assert _ip_of(("fe80::1%eth0", 1, 0, 2)) == "fe80::1"
    assert _ip_of(("192.0.2.7", 1)) == "192.0.2.7"
    assert _ip_of(None) == ""
    assert _ip_of(("@abstract", 1)) == ""


async def test_check_094_nothing_secret_is_logged() -> None:
    credentials = mint(SECRET, ALICE, claims={"n": "x"})
    with structlog.testing.capture_logs() as logs:
        async with running_front() as (_, _, port):
            async with device(port) as client:
                client.send(connect_bytes(credentials) + publish(b'{"type":"listen","state":"detect","text":"my words"}') + publish(b"{"))
                assert await client.packet() == Connack(0)
                assert await client.quiet()
            async with device(port) as client:
                client.send(connect_bytes(Credentials(credentials.client_id + "\n\x1b[0m", credentials.username, "hunter2")))
                assert await client.packet() == Connack(5)
    text = repr(logs)
    for secret in (credentials.password, credentials.username, "my words", "hunter2", "\\x1b", "\\n"):
        assert secret not in text
    assert any(line["event"] == "connection refused" for line in logs)


async def test_the_log_has_one_line_for_each_end_of_a_connection_and_it_says_why() -> None:
    with structlog.testing.capture_logs() as logs:
        async with running_front() as (front, listener, port):
            for count, last_words in enumerate((b"\xe0\x00", b"\x00\x00", b""), 1):  # DISCONNECT, a reserved type, not a word
                async with connected_device(port, ALICE) as client:
                    client.send(last_words)
                await listener.until(2 * count)
            async with connected_device(port, ALICE) as client:
                front.disconnect(ALICE.device_id)
                assert await client.closed()
                await listener.until(8)
    assert listener.kinds() == ["connected", "disconnected"] * 4
    told = [(line["event"], line["reason"], line.get("detail")) for line in logs if "device" in line]
    assert told == [
        ("device disconnected", "the client said goodbye", None),
        ("device disconnected", "malformed packet", "a reserved packet type"),
        ("device disconnected", "the connection was lost", None),
        ("device disconnected", "closed by the server", None),
    ]


async def test_a_refusal_is_logged_with_its_cause_and_without_the_client_id() -> None:
    secret_uuid = DeviceIdentity(ALICE.device_id, "5f2d1c3a")
    good = mint(SECRET, secret_uuid, claims={})
    with structlog.testing.capture_logs() as logs:
        async with running_front() as (_, _, port):
            for attempt in (
                connect_bytes(Credentials(good.client_id, good.username, "wrong")),
                connect_bytes(Credentials(good.client_id, good.username, "")),
                b"\x10\x0c\x00\x06MQIsdp\x03\x02\x00\x3c",
            ):
                async with device(port) as client:
                    client.send(attempt)
                    assert await client.packet() is not None
                    assert await client.closed()
    wrong, missing, other = [line for line in logs if line["event"] == "connection refused"]
    assert wrong["detail"].startswith("CONNACK 5: not the credentials of a device known here")
    assert missing["detail"] == "CONNACK 4: user name or password is missing"
    assert other["detail"] == "protocol 'MQIsdp', level 3"
    assert wrong["client_id"] == "GID_default@@@02_00_00_00_00_0a"
    assert secret_uuid.client_id not in repr(logs)


async def test_check_098_noise_over_sockets_leaves_the_front_in_order() -> None:
    noise = random.Random(98)
    good = [connect_of(ALICE), publish(HELLO), encode(Subscribe(1, (("#", 0),))), encode(Publish("t", HELLO, 2, packet_id=1)), b"\xc0\x00"]
    async with running_front() as (front, _, port):
        for _ in range(150):
            parts = bytearray(b"".join(noise.sample(good, noise.randrange(1, 5))))
            for _ in range(noise.randrange(4)):
                parts[noise.randrange(len(parts))] = noise.randrange(256)
            async with device(port) as client:
                client.send((connect_of(BOB) if noise.random() < 0.5 else b"") + bytes(parts) + noise.randbytes(noise.randrange(20)))
                client.writer.write_eof()
                while await client.packet() is not None:
                    pass
        async with connected_device(port, ALICE) as client:
            assert await client.quiet()
        assert front.stats.listener_errors == 0


# -- clients of others -------------------------------------------------------------------------------------------------
async def test_aiomqtt_gets_messages_without_and_with_subscribing() -> None:
    credentials = mint(SECRET, ALICE, claims={})
    async with running_front() as (front, listener, port):
        client = aiomqtt.Client(
            "127.0.0.1", port, identifier=credentials.client_id, username=credentials.username, password=credentials.password, timeout=10
        )
        async with client, asyncio.timeout(10):
            await client.publish("device-server", HELLO)
            assert (await listener.until(2))[1] == ("message", ALICE, Hello())
            front.send(ALICE.device_id, Stt("s", "one"))
            message = await anext(aiter(client.messages))
            assert str(message.topic) == "devices/p2p/02_00_00_00_00_0a"
            assert message.payload == b'{"type":"stt","session_id":"s","text":"one"}'
            await client.subscribe("#", qos=2)
            await client.publish("device-server", b'{"type":"abort"}', qos=2)
            await client.publish("device-server", b'{"type":"goodbye"}', qos=1)
            heard = await listener.until(4)
            assert [facts[2] for facts in heard[2:]] == [Abort(), Goodbye()]
            front.send(ALICE.device_id, Stt("s", "two"))
            front.send(ALICE.device_id, Stt("s", "three"))
            texts = [(await anext(aiter(client.messages))).payload for _ in range(2)]
            assert texts == [b'{"type":"stt","session_id":"s","text":"two"}', b'{"type":"stt","session_id":"s","text":"three"}']
            await client.unsubscribe("#")
        assert (await listener.until(5))[4] == ("disconnected", ALICE)
        assert front.stats.client_disconnects == 1


async def test_paho_agrees() -> None:
    """The usual client in its own thread: let in, answered, and refused with the code that its user reads."""
    credentials = mint(SECRET, ALICE, claims={})
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[tuple[str, Any]] = asyncio.Queue(16)

    def tell(kind: str, fact: Any) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, (kind, fact))

    def new_client(password: str) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=credentials.client_id, protocol=paho.MQTTv311, reconnect_on_failure=False
        )
        client.username_pw_set(credentials.username, password)
        client.on_connect = lambda *facts: tell("connack", str(facts[3]))
        client.on_message = lambda *facts: tell("message", bytes(facts[2].payload))
        return client

    async with running_front() as (front, listener, port), asyncio.timeout(20):
        for password, answer in ((credentials.password, "Success"), ("wrong", "Not authorized")):
            client = new_client(password)
            await asyncio.to_thread(client.connect, "127.0.0.1", port)
            client.loop_start()
            try:
                assert await arrived.get() == ("connack", answer)
                if answer == "Success":
                    client.publish("device-server", HELLO)
                    assert (await listener.until(2))[1] == ("message", ALICE, Hello())
                    front.send(ALICE.device_id, TtsStop("s"))
                    assert await arrived.get() == ("message", b'{"type":"tts","session_id":"s","state":"stop"}')
                    client.disconnect()
                    await listener.until(3)
            finally:
                await asyncio.to_thread(client.loop_stop)


def self_signed(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context around a certificate for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "both.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=str(path))


async def test_tls_beside_plain(tmp_path: Path) -> None:
    server, client_side = self_signed(tmp_path)
    async with running_front() as (front, listener, plain_port):
        tls_port = await front.start(host="127.0.0.1", port=0, ssl=server)
        with pytest.raises(OSError, match="in use"):
            await front.start(host="127.0.0.1", port=tls_port, ssl=server)
        async with device(tls_port, ssl=client_side, server_hostname="localhost") as alice, connected_device(plain_port, BOB) as bob:
            alice.send(connect_of(ALICE) + publish(HELLO))
            assert await alice.packet() == Connack(0)
            assert ("message", ALICE, Hello()) in await listener.until(3)
            front.send(ALICE.device_id, TtsStop("s"))
            assert isinstance(await alice.packet(), Publish)
            assert await bob.quiet()
        await listener.until(5)


async def test_a_taken_port_is_an_error_and_the_front_lives() -> None:
    async with running_front() as (front, _, port):
        with pytest.raises(OSError, match="in use"):
            await front.start(host="127.0.0.1", port=port)
        async with connected_device(port, ALICE) as client:
            assert await client.quiet()


SCENARIOS = [
    scenario
    for name, scenario in sorted(globals().items())
    if name.startswith("test_") and inspect.iscoroutinefunction(scenario) and "aiomqtt" not in name and "tls" not in name
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_same_on_uvloop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


def test_tls_beside_plain_on_uvloop(tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_tls_beside_plain(tmp_path))


class Narrow:
    """A gate for the tests: so many connections, so many logins."""

    def __init__(self, *, connections: int, devices: int) -> None:
        self.connections, self.devices, self.failed = connections, devices, 0

    def admits(self, peer_ip: str) -> bool:
        assert peer_ip == "127.0.0.1"
        self.connections -= 1
        return self.connections >= 0

    def admits_device(self, device_id: str, peer_ip: str) -> bool:
        self.devices -= 1
        return self.devices >= 0

    def login_failed(self, peer_ip: str) -> None:
        self.failed += 1

    def source(self, peer_ip: str) -> str:
        return ""

    def pace(self, device_id: str, peer_ip: str, cost: float) -> float:
        return 0.0


async def test_the_gate_decides_before_anything_is_read() -> None:
    async with running_front() as (front, recorder, port):
        gate = front._gate = Narrow(connections=5, devices=1)
        wrong = await Device.open(port)
        wrong.send(encode(Connect(ALICE.mqtt_client_id, username="u", password=b"wrong")))
        assert await wrong.packet() == Connack(5)
        nameless = await Device.open(port)
        nameless.send(encode(Connect(ALICE.mqtt_client_id)))
        assert await nameless.packet() == Connack(4)
        assert gate.failed == 2
        credentials = mint(SECRET, ALICE, claims={})
        right = encode(Connect(ALICE.mqtt_client_id, username=credentials.username, password=credentials.password.encode()))
        inside, too_often, beyond = [await Device.open(port) for _ in range(3)]
        inside.send(right)
        assert await inside.packet() == Connack(0)
        too_often.send(right)
        assert await too_often.packet() == Connack(3)
        beyond.send(right)
        assert await beyond.packet() is not None
        assert (front.stats.connections_limited, front.stats.connects_limited) == (0, 2)
        shut_out = await Device.open(port)
        with suppress(ConnectionError):
            assert await shut_out.packet() is None
        assert front.stats.connections_limited == 1
        assert recorder.kinds() == ["connected"]
        for device in (wrong, nameless, inside, too_often, beyond, shut_out):
            device.writer.close()
