"""The simulated device: the firmware's main task, its state machine, and the conversation API for people, tests and benches.

The main task runs one job after the other, as on hardware: while it waits for hello, no MCP answer leaves and no ``tts start``
takes effect. JSON is read where it arrives (hello, MCP requests), everything else waits for the main task.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import structlog

from bridge.device.audio_channel import AudioChannel, ChannelStats
from bridge.device.control_link import ControlLink
from bridge.device.datagram import Received
from bridge.device.dialogue import Action, Event, Mode, State, step
from bridge.device.errors import DeviceError, FirmwareCrashError, HelloError, MqttError, OtaError, WebSocketError
from bridge.device.events import EventLog, Message
from bridge.device.hello import AudioFormat, Grant, compose_hello, read_hello, read_websocket_hello
from bridge.device.mcp import Appliance, McpServer
from bridge.device.microphone import Microphone
from bridge.device.options import DeviceOptions
from bridge.device.ota_client import Hardware, MqttSettings, OtaClient, WebSocketSettings, read_settings
from bridge.device.player import Player
from bridge.device.profiles import PROFILES
from bridge.device.things import Things
from bridge.device.upgrade import UpgradeError, download, read_offer
from bridge.device.websocket_link import WebSocketLink

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

MAIN_QUEUE_LENGTH: Final = 256
_REBOOT_S: Final = 1.0
_MAX_UPGRADES: Final = 5
"""In one boot. A real device would go on for ever."""
_DRAIN_SLACK_S: Final = 10.0
_TICK_S: Final = 0.02


_MESSAGES: Final[dict[Action, Message]] = {
    Action.LISTEN_STOP: {"type": "listen", "state": "stop"},
    Action.ABORT: {"type": "abort"},
    Action.ABORT_WAKE_WORD: {"type": "abort", "reason": "wake_word_detected"},
    Action.GOODBYE: {"type": "goodbye"},
}


@dataclass(slots=True)
class DeviceStats:
    """Counters over the device's life."""

    jobs_dropped: int = 0
    """The main task had 256 jobs waiting: the newest was lost."""
    invalid_messages: int = 0
    unknown_messages: int = 0
    hellos: int = 0
    hellos_ignored: int = 0
    goodbyes_ignored: int = 0
    network_errors: int = 0
    boots: int = 0
    crashes: int = 0
    upgrades: int = 0
    """Downloaded, and booted into."""
    upgrades_failed: int = 0


class Firmware:
    """The device without its user: power, network, main task. :class:`bridge.device.device.Device` adds the user."""

    def __init__(self, options: DeviceOptions) -> None:
        self.options = options
        self.profile = PROFILES[options.profile]
        self.hardware = replace(Hardware.of(options.device_id, options.client_id), board=options.board)
        self.appliance = Appliance(facts=self.hardware.system_info(self.profile))
        self.mcp = McpServer(
            name=self.hardware.board,
            version=self.profile.firmware_version,
            appliance=self.appliance,
            extra_tools=options.extra_tools,
        )
        self.things = Things(self.appliance)
        self.events = EventLog(on_event=options.on_event)
        """What the server sent as JSON."""
        self.sent = EventLog()
        """What the device sent as JSON."""
        self.stats = DeviceStats()
        self.channel_stats = ChannelStats()
        self.state = State.IDLE
        self.mode: Mode = options.mode
        self.session_id = ""
        self.grant: Grant | None = None
        self.mqtt: MqttSettings | None = None
        self.websocket: WebSocketSettings | None = None
        """Set instead of ``mqtt`` when that is the transport."""
        self.ota_answer: dict[str, Any] = {}
        self._tasks = asyncio.TaskGroup()
        self._owned: list[asyncio.Task[None]] = []
        self._jobs: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue(MAIN_QUEUE_LENGTH)
        self._control: ControlLink | None = None
        self._channel: AudioChannel | WebSocketLink | None = None
        self._link: WebSocketLink | None = None
        """The WebSocket from before hello on; with the channel open it is the channel."""
        self._hello: asyncio.Future[Grant] | None = None
        self._hello_fault = ""
        self._listen_again = False
        self._last_input_s = 0.0
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self.player = Player(
            loop=self._loop,
            queue_packets=self.profile.queue_packets,
            decode=self.options.decode,
            on_drained=self._drained,
        )
        self.microphone = Microphone(
            frame_ms=self.profile.frame_ms,
            transmit=self._transmit,
            realtime=self.options.realtime,
            live=self.options.microphone,
            warm_up_s=self.options.warm_up_s,
        )
        await self._tasks.__aenter__()
        name = self.options.device_id
        self._own(self._main_task(), f"{name} main task")
        self._own(self.microphone.run(), f"{name} microphone")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in self._owned:
            task.cancel()
        self._release_channel()
        self.player.close()
        self.microphone.close()
        if self._control is not None:
            self._control.close()
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            await self._tasks.__aexit__(kind, error, trace)  # perhaps a task of ours failed: then this says which
        else:
            await self._tasks.__aexit__(None, None, None)  # what the body raised goes on as it is, not in a group

    # -- power and network --------------------------------------------------------------------------------------------
    @property
    def volume(self) -> int:
        return self.appliance.volume

    @property
    def channel_open(self) -> bool:
        """As the firmware judges: a socket, and some input within the last 120 s."""
        return self._channel is not None and self._loop.time() - self._last_input_s < self.options.channel_timeout_s

    @property
    def channel(self) -> AudioChannel | WebSocketLink | None:
        return self._channel

    @property
    def control(self) -> ControlLink:
        """The MQTT link. Raises :class:`MqttError` before :meth:`boot`."""
        if self._control is None:
            raise MqttError("The device has not booted: there are no MQTT settings yet.")
        return self._control

    async def boot(self) -> None:
        """Check the version, activate if asked to, install what is offered, connect (a WebSocket only when it is needed).

        Raises :class:`OtaError` or :class:`MqttError`.
        """
        for _ in range(_MAX_UPGRADES):
            ota = OtaClient(
                self.options.ota_url,
                hardware=self.hardware,
                profile=self.profile,
                on_activation=self.options.on_activation,
                timing=self.options.ota_timing,
            )
            self.ota_answer = await ota.check()
            if not await self._upgrade():
                break
        else:
            raise OtaError("The server has the device install firmware again and again.")
        settings = read_settings(self.ota_answer, self.options.transport)
        if isinstance(settings, MqttSettings):
            await self.connect(settings)
        else:
            self.stats.boots += 1
            self.websocket = replace(settings, version=self.options.websocket_version or settings.version)

    async def _upgrade(self) -> bool:
        """Install what the last answer offers; True when the device boots again."""
        offer = read_offer(self.ota_answer, self.profile.firmware_version)
        if offer is None:
            return False
        try:
            image = await download(offer.url)
        except UpgradeError as error:
            self.stats.upgrades_failed += 1
            log.warning("The simulated device could not update", device=self.options.device_id, reason=str(error))
            return False
        self.stats.upgrades += 1
        if not self.options.rolls_back:
            self.profile = replace(self.profile, firmware_version=image.version)
        return True

    async def connect(self, settings: MqttSettings) -> None:
        """The second half of :meth:`boot`, for settings from elsewhere. Raises :class:`MqttError`."""
        self.stats.boots += 1
        self.mqtt, self.websocket = settings, None
        self._control = ControlLink(
            settings,
            on_message=self._message_arrived,
            reconnect_s=self.options.reconnect_s,
            subscribes_qos=self.profile.subscribes_qos,
            tls=self.options.tls,
        )
        await self._control.connect()
        self._own(self._control.run(), f"{self.options.device_id} reconnect")

    # -- what arrives ----------------------------------------------------------------------------------------------------
    def _message_arrived(self, payload: bytes) -> None:
        now = self._loop.time()
        self._last_input_s = now
        try:
            message = json.loads(payload)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            self.stats.invalid_messages += 1
            return
        self.events.append(message, now)
        self._dispatch(message)

    def _dispatch(self, message: Message) -> None:
        match message["type"]:
            case "hello":
                self._hello_arrived(message)
            case "goodbye":
                self._goodbye_arrived(message)
            case "tts":
                self._tts_arrived(message)
            case "mcp":
                if isinstance(message.get("payload"), dict) and self.profile.mcp:
                    self._post(lambda: self._answer_mcp(message["payload"]))
            case "iot":
                commands = message.get("commands")
                if self.profile.iot and isinstance(commands, list):
                    self._post(lambda: self._run_commands(commands))
            case "system":
                if message.get("command") == "reboot":
                    self._post(self._begin_reboot)
            case "stt" | "llm" | "alert":
                pass  # the display shows it; the record reads it from the events
            case _:
                self.stats.unknown_messages += 1

    def _hello_arrived(self, message: Message) -> None:
        previous = self.grant.audio if self.grant is not None else AudioFormat()
        try:
            if self.websocket is not None:
                grant = read_websocket_hello(message, previous=previous)
            else:
                grant = read_hello(message, previous=previous, strict=self.profile.strict_hello, aead=self.options.aead)
        except FirmwareCrashError as crash:
            self.stats.crashes += 1
            if self._hello is not None and not self._hello.done():
                self._hello.set_exception(crash)
            return
        if isinstance(grant, str):
            self.stats.hellos_ignored += 1
            self._hello_fault = grant
            return
        self.grant, self.session_id = grant, grant.session_id
        if self._hello is not None and not self._hello.done():
            self._hello.set_result(grant)
        elif self._channel is not None:
            self._channel.rekey(grant)
            self.player.set_format(grant.audio)

    def _goodbye_arrived(self, message: Message) -> None:
        session_id = message.get("session_id")
        if session_id != self.session_id and (self.profile.goodbye_needs_session_id or session_id is not None):
            self.stats.goodbyes_ignored += 1
            return
        self._post(self._obey_goodbye)

    def _tts_arrived(self, message: Message) -> None:
        match message.get("state"):
            case "start":
                self._post(lambda: self._apply(Event.TTS_START))
            case "stop":
                self._post(lambda: self._apply(Event.TTS_STOP))

    def _packet_arrived(self, packet: Received) -> None:
        self._last_input_s = self._loop.time()
        accept = self.profile.audio_in_any_state or self.state is State.SPEAKING
        self.player.receive(packet.opus, timestamp=packet.timestamp, accept=accept)

    # -- the main task ---------------------------------------------------------------------------------------------------
    def _post(self, job: Callable[[], Awaitable[None]]) -> None:
        try:
            self._jobs.put_nowait(job)
        except asyncio.QueueFull:
            self.stats.jobs_dropped += 1

    async def _main_task(self) -> None:
        while True:
            job = await self._jobs.get()
            try:
                await job()
            except DeviceError as error:
                await self._network_failed(error)

    async def _in_main(self, job: Callable[[], Awaitable[_T]]) -> _T:
        """Run a job in the main task and hand its result or :class:`DeviceError` back."""
        done: asyncio.Future[_T] = self._loop.create_future()

        async def run() -> None:
            try:
                result = await job()
            except DeviceError as error:
                await self._network_failed(error)
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(result)

        await self._jobs.put(run)
        return await done

    async def _network_failed(self, error: DeviceError) -> None:
        """A failed send: alert on the screen, idle, the channel counts as closed. Nothing is sent."""
        self.stats.network_errors += 1
        log.debug("The simulated device had a network error", device=self.options.device_id, reason=str(error))
        self._listen_again = False
        self.microphone.switch_off()
        self._release_channel()
        await self._enter(State.IDLE)

    async def _apply(self, event: Event) -> None:
        before = self.state
        state, actions = step(before, event, self.mode)
        if event in {Event.LISTEN, Event.WAKE_WORD, Event.TTS_START}:
            self._listen_again = False
        await self._enter(state)
        if event is Event.TTS_START and actions:
            self.player.begin_utterance()
        elif event is Event.TTS_STOP:
            self.player.end_utterance()
        for action in actions:
            await self._act(action)

    async def _enter(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            async with self._changed:
                self._changed.notify_all()

    async def _act(self, action: Action) -> None:
        match action:
            case Action.LISTEN_START:
                self._start_listening()
            case Action.LISTEN_AGAIN:
                self._listen_again = not self.player.drained
                if not self._listen_again:
                    self._start_listening()
            case Action.MICROPHONE_OFF:
                self.microphone.switch_off()
            case Action.CLEAR_QUEUE:
                await asyncio.sleep(self.options.main_loop_pass_s)  # the display is drawn first
                self.player.clear()
            case Action.TRUNCATE:
                if self.profile.stop_truncates:
                    self.player.clear("truncated")
            case Action.RELEASE_CHANNEL:
                self._release_channel()
            case Action.GOODBYE if self.websocket is not None:
                pass  # closing the socket has said it
            case _:
                self._publish({"session_id": self.session_id} | _MESSAGES[action])

    def _start_listening(self) -> None:
        if self.profile.iot and (states := self.things.changed_states()):
            self._publish({"session_id": self.session_id, "type": "iot", "update": True, "states": states})
        self._publish({"session_id": self.session_id, "type": "listen", "state": "start", "mode": self.mode})
        self.microphone.switch_on()

    async def _open_channel(self) -> None:
        """With the channel open nothing happens. The main task is blocked until hello is answered or 10 s have passed."""
        if self.channel_open:
            return
        self._release_channel()
        if self.state is not State.IDLE:
            self.microphone.switch_off()
            await self._enter(State.IDLE)
        await self._apply(Event.CONNECT)
        if self.websocket is not None:
            self._link = await self._open_websocket(self.websocket)
        else:
            await self.control.reconnect_now()
        grant = await self._say_hello()
        self._channel = self._link or await AudioChannel.open(
            grant,
            profile=self.profile,
            on_packet=self._packet_arrived,
            stats=self.channel_stats,
            uplink=self.options.impairment,
            downlink=self.options.downlink_impairment or self.options.impairment,
        )
        self._last_input_s = self._loop.time()
        self.player.set_format(grant.audio)
        await self._apply(Event.OPENED)
        if self.profile.iot:
            for descriptor in self.things.descriptors():
                self._publish({"session_id": self.session_id, "type": "iot", "update": True, "descriptors": [descriptor]})

    async def _open_websocket(self, settings: WebSocketSettings) -> WebSocketLink:
        link = await WebSocketLink.open(
            settings,
            hardware=self.hardware,
            on_text=self._message_arrived,
            on_packet=self._packet_arrived,
            on_closed=self._websocket_closed,
            stats=self.channel_stats,
        )
        self._own(link.run(), f"{self.options.device_id} websocket")
        return link

    def _websocket_closed(self, link: WebSocketLink, how: str) -> None:
        """The server, or the network, has ended the connection: that is a goodbye."""
        if link is not self._link:
            return
        if self._hello is not None and not self._hello.done():
            self._hello.set_exception(HelloError(f"The server closed the WebSocket {how} instead of answering hello."))
        else:
            self._post(lambda: self._apply(Event.CLOSED))

    async def _say_hello(self) -> Grant:
        version = self.websocket.version if self.websocket is not None else 0
        self._hello = self._loop.create_future()
        self._hello_fault = ""
        self.session_id = ""
        self.stats.hellos += 1
        try:
            aead = self.options.aead and not version
            self._publish(compose_hello(self.profile, aec=self.options.aec, aead=aead, websocket_version=version))
            async with asyncio.timeout(self.options.hello_timeout_s):
                return await self._hello
        except TimeoutError:
            reason = f"only with one that devices ignore: {self._hello_fault}" if self._hello_fault else "at all"
            waited = f"{self.options.hello_timeout_s:g} s"
            what = "The WebSocket" if version else "MQTT"
            raise HelloError(f"{what} works, but the server did not answer hello within {waited} {reason}.") from None
        finally:
            self._hello = None

    async def _hang_up(self) -> None:
        if self._channel is not None:
            await self._apply(Event.CLOSE)

    async def _obey_goodbye(self) -> None:
        session_id = self.session_id
        await self._apply(Event.CLOSED)
        if self.profile.answers_goodbye:
            self._publish({"session_id": session_id, "type": "goodbye"})
        if self.profile.disconnects_on_goodbye:
            self.control.close()

    async def _answer_mcp(self, request: Message) -> None:
        reboots = self.appliance.reboots
        answer = self.mcp.answer(request)
        if answer is not None:
            # Joined, not dumped: an error text with a quote in it makes the whole message invalid, as on hardware.
            self._publish_text(f'{{"session_id":"{self.session_id}","type":"mcp","payload":{answer}}}')
        if self.appliance.reboots > reboots:
            await self._begin_reboot()

    async def _run_commands(self, commands: list[object]) -> None:
        for command in commands:
            self.things.command(command)

    async def _begin_reboot(self) -> None:
        self._own(self._reboot(), f"{self.options.device_id} reboot")

    async def _reboot(self) -> None:
        """Hang up, fall off the network, boot again. A boot that fails leaves the device off."""
        await self._in_main(self._hang_up)
        if self._control is not None:
            self._control.close()
        await asyncio.sleep(_REBOOT_S)
        try:
            await self.boot()
        except DeviceError as error:
            log.warning("The simulated device could not boot again", device=self.options.device_id, reason=str(error))

    # -- small parts -----------------------------------------------------------------------------------------------------
    def _own(self, work: Any, name: str) -> None:
        self._owned = [task for task in self._owned if not task.done()]
        self._owned.append(self._tasks.create_task(work, name=name))

    def _publish(self, message: Message) -> None:
        self._publish_text(json.dumps(message, ensure_ascii=False, separators=(",", ":")))

    def _publish_text(self, text: str) -> None:
        if self.websocket is None:
            self.control.publish(text)
        elif self._link is None:
            raise WebSocketError("The message could not be sent: there is no WebSocket.")
        else:
            self._link.publish(text)
        with contextlib.suppress(ValueError):
            self.sent.append(json.loads(text), self._loop.time())

    def _transmit(self, frame: bytes) -> None:
        if self._channel is None:
            return
        timestamp = 0
        if self.options.aec and self.player.played_timestamps:
            timestamp = self.player.played_timestamps.popleft()
        self._channel.send(frame, timestamp=timestamp)

    def _release_channel(self) -> None:
        for open_one in (self._channel, self._link):
            if open_one is not None:
                open_one.close()
        self._channel = self._link = None

    def _drained(self) -> None:
        if self._listen_again:
            self._listen_again = False
            self._post(self._listen_after_playback)

    async def _listen_after_playback(self) -> None:
        if self.state is State.LISTENING:
            self._start_listening()
