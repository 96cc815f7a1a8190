"""One session: from a device's hello to the goodbye, the idle time-out or the end of the process.

It owns the ear, the current turn (none or one), the tools that run for it and its timers, all as tasks of one group.
What the device says is handled at once, on the loop; the dialogue table decides, the methods here carry it out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

import structlog

from bridge.audio_path import AudioPath, PathState
from bridge.dialogue import Action, Event, Mode, State, move
from bridge.doctor.probe import PROBE_TEXT
from bridge.ear import Ear, Utterance
from bridge.history import History
from bridge.lead import LeadPolicy
from bridge.logs import bound
from bridge.mouth import Mouth
from bridge.observe import Metrics
from bridge.phrases import Phrases, language_of, phrases
from bridge.prompt import system_prompt
from bridge.reception import Line
from bridge.scope import task_scope
from bridge.sentences import bare, sounds_unfinished, without_prefix
from bridge.skills import SkillReply, Skills, Timers
from bridge.transport import AudioLink
from bridge.turn import Engines, Request, Turn, TurnLimits, transcribe
from iot.descriptors import Things
from iot.toolbox import ToolBox
from mqtt_control.messages import Abort, Alert, Goodbye, Inbound, Iot, Listen, LlmEmotion, Outbound, TtsStart, TtsStop
from providers.base import Intent, ProviderError, Transcript, Vad
from providers.tools import ToolResult
from settings.model import Audio, SettingsTree
from udp_audio.errors import ChannelClosed

log = structlog.get_logger(__name__)

WAITING_ANNOUNCEMENTS = 8
RELISTEN_S = 1.0
"""After `tts stop` a device in auto mode says `listen start`. An announcement waits for it, at most so long: begun before,
it would be cut off by it.
"""
QUIET_PEAK = 60
"""Peak amplitude under which push-to-talk audio holds nothing worth a transcription."""
DEVICE_PATIENCE_S = 60.0
"""A device takes its channel for closed after 120 s without a message: a session that waits for a timer says something before."""


@dataclass(frozen=True, slots=True)
class Services:
    """What all sessions share."""

    settings: SettingsTree
    engines: Engines
    vad: Vad
    skills: Skills
    metrics: Metrics
    timezone: tzinfo | None


@dataclass(frozen=True, slots=True)
class _Context:
    """What a skill may use of the session (:class:`bridge.skills.SkillContext`)."""

    toolbox: ToolBox
    timers: Timers
    language: str
    timezone: tzinfo | None

    def now(self) -> datetime:
        return datetime.now(self.timezone).astimezone(self.timezone)


class Session:
    """A device's open channel. :meth:`run` is its life; the other methods may be called while it runs."""

    def __init__(
        self,
        *,
        session_id: str,
        device_id: str,
        channel: AudioLink,
        uplink_frame_ms: int,
        audio: Audio,
        server_aec: bool,
        toolbox: ToolBox,
        things: Things | None,
        history: History,
        services: Services,
        firmware: str = "",
        send: Callable[[Outbound], bool],
        prepare: Callable[[], Coroutine[Any, Any, None]] | None = None,
        audio_address: str = "",
    ) -> None:
        """``audio``: the format of its speech, as told to the device. ``audio_address``: where the device was told to send its
        UDP audio; empty when it shares the connection.
        """
        self.session_id = session_id
        self.device_id = device_id
        self.channel = channel
        self.toolbox = toolbox
        self.state = State.IDLE
        self.mode = Mode.AUTO
        self.turns = 0
        self._things = things
        self._history = history
        self._services = services
        self._settings = services.settings
        self._audio = audio
        self._lead = LeadPolicy(audio.lead_frames, audio.frame_ms, firmware)
        self._deliver = send
        self._start_missed = False
        self._prepare = prepare
        self._server_aec = server_aec
        self._ear = Ear(
            channel,
            services.vad.open(),
            options=self._settings.vad,
            frame_ms=uplink_frame_ms,
            max_utterance_s=self._settings.session.max_utterance_s,
            listener=self,
        )
        self.line = Line.of(channel, self._ear.stats)
        """Where the counters of its audio are read."""
        self.timers = Timers(announce=self.announce)
        self._tasks: asyncio.TaskGroup | None = None
        self._turn: asyncio.Task[None] | None = None
        self._mouth: Mouth | None = None
        self._unanswered: Utterance | None = None
        self._early: asyncio.Task[Transcript | None] | None = None
        self._waiting: deque[str] = deque(maxlen=WAITING_ANNOUNCEMENTS)
        self._relisten: asyncio.TimerHandle | None = None
        """Pending while the device's `listen start` is due."""
        self._wake_word = ""
        self._greeting = ""
        self._ended = asyncio.Event()
        self._end_reason = ""
        self._farewell = False
        self._active_at = asyncio.get_running_loop().time()
        self._played_ms = 0
        self._audio_address = audio_address
        self._audio_path = AudioPath()
        self._path_look: asyncio.TimerHandle | None = None

    # -- life --------------------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Until :meth:`end` or cancellation; afterwards the channel is closed and every task of the session is gone."""
        with self._named():
            log.info("session opened", mode="full duplex" if self._server_aec else "half duplex")
            try:
                await self._live()
            finally:
                self._microphone_off()
                self._relistened()
                self.channel.close()
                self.timers.close()
                if self._farewell:
                    self._send(Goodbye(session_id=self.session_id))
                log.info("session closed", reason=self._end_reason or "cancelled", turns=self.turns)

    async def _live(self) -> None:
        try:
            async with task_scope() as tasks:
                self._tasks = tasks
                tasks.create_task(self._listen(), name="ear")
                tasks.create_task(self._watch_idle(), name="idle watch")
                if self._prepare is not None:
                    tasks.create_task(self._prepare(), name="device tools")
                await self._ended.wait()
        finally:
            self._tasks = None

    def end(self, reason: str, *, goodbye: bool) -> None:
        """Close the session; ``goodbye``: tell the device, with this session's id."""
        if self.ended:
            return
        self._end_reason, self._farewell = reason, goodbye
        if self._mouth is not None and not goodbye:
            self._mouth.mute()
        self._ended.set()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def resume(self) -> None:
        """The control connection is back.

        A device that missed the end of an answer would stay in `speaking`: it is told again (who is not speaking ignores it).
        One that missed the beginning still listens while we wait for its next `listen start`: it is hung up.
        """
        if self._start_missed:
            self.end("an answer was missed while the control connection was away", goodbye=True)
        elif self.state is not State.SPEAKING:
            self._send(TtsStop(session_id=self.session_id))

    def missed(self, messages: Sequence[Outbound]) -> None:
        """These may not have reached the device: its control connection was lost before it acknowledged them."""
        if any(isinstance(message, TtsStart) and message.session_id == self.session_id for message in messages):
            self._start_missed = True

    def _send(self, message: Outbound) -> bool:
        delivered = self._deliver(message)
        if isinstance(message, TtsStart) and not delivered:
            self._start_missed = True
        if isinstance(message, TtsStop) and self.mode is Mode.AUTO:
            self._relistened()
            self._relisten = asyncio.get_running_loop().call_later(RELISTEN_S, self._announce_waiting)
        return delivered

    async def _listen(self) -> None:
        try:
            await self._ear.run()
        except ChannelClosed:
            self.end("audio channel closed", goodbye=True)

    async def _watch_idle(self) -> None:
        """End the session after silence; a pending timer keeps it, and keeps the device from giving up."""
        limit_s = self._settings.session.idle_timeout_s
        loop = asyncio.get_running_loop()
        while True:
            if self._turn is not None or self._ear.in_speech:
                self._active_at = loop.time()
            rest_s = self._active_at + limit_s - loop.time()
            if rest_s <= 0 and not self.timers.pending():
                self.end("silence", goodbye=True)
                return
            if rest_s <= 0:
                self._send(LlmEmotion(session_id=self.session_id, emotion="neutral"))
            await asyncio.sleep(min(max(rest_s, 1.0), DEVICE_PATIENCE_S) if rest_s > 0 else DEVICE_PATIENCE_S)

    # -- what the device says ----------------------------------------------------------------------------------------------
    def handle(self, message: Inbound) -> None:
        """A message of this session, already checked to be for it."""
        with self._named():  # the tasks that it starts carry it on
            self._handle(message)

    def _named(self) -> AbstractContextManager[None]:
        """Within it every log line names the device and the session."""
        return bound(device=self.device_id, session=self.session_id[:8])

    def _handle(self, message: Inbound) -> None:
        self._active_at = asyncio.get_running_loop().time()
        match message:
            case Listen(state="start", mode=mode):
                self.mode = Mode(mode)
                self._microphone_on()
                due = self._relistened()
                self._event(Event.LISTEN_START)
                self._greet()
                if due:
                    self._announce_waiting()
            case Listen(state="stop"):
                self._microphone_off()
                self._event(Event.LISTEN_STOP)
            case Listen(state="detect", text=text):
                self._wake(text)
            case Abort():
                self._microphone_off()  # until the device says that it listens again
                self._event(Event.ABORT)
            case Iot() if self._things is not None:
                self._things.feed_descriptors(message.descriptors)
                self._things.feed_states(message.states)
            case _:
                log.debug("message ignored", type=type(message).__name__)

    def _wake(self, text: str) -> None:
        """The wake word has been spoken: its own audio is not a request."""
        if text == PROBE_TEXT:
            self.announce(self._phrases.path_works)
            return
        self._wake_word = bare(text)
        self._ear.forget_waiting()
        self._greeting = self._settings.session.greeting

    def _greet(self) -> None:
        """Only now: `listen start` follows the wake word at once, and takes the floor from whoever speaks."""
        greeting, self._greeting = self._greeting, ""
        if greeting:
            self.announce(greeting)

    def announce(self, text: str) -> None:
        """Say ``text`` as it is: now when the floor is free, else after the current turn. The oldest waiting one is dropped at 8."""
        if self._ear.in_speech or self._relisten is not None:
            self._waiting.append(text)
            return
        self._event(Event.ANNOUNCE, Request(say=text))

    def _relistened(self) -> bool:
        """Nothing is due of the device any more; True when it was."""
        due, self._relisten = self._relisten, None
        if due is not None:
            due.cancel()
        return due is not None

    def _announce_waiting(self) -> None:
        self._relistened()
        if self._waiting and not self.ended:
            self.announce(self._waiting.popleft())

    # -- whether it is heard -----------------------------------------------------------------------------------------------
    @property
    def audio_path(self) -> PathState:
        """Whether the device's audio arrives."""
        return self._audio_path.state(self.channel.last_received_at)

    def _microphone_on(self) -> None:
        self._microphone_off()
        if not self._audio_address:
            return  # audio shares a connection that is known to work
        loop = asyncio.get_running_loop()
        self._path_look = loop.call_at(self._audio_path.listens(loop.time()), self._look_at_path)

    def _microphone_off(self) -> None:
        self._audio_path.rests()
        if self._path_look is not None:
            self._path_look.cancel()
            self._path_look = None

    def _look_at_path(self) -> None:
        if not self._audio_path.look(asyncio.get_running_loop().time(), self.channel.last_received_at):
            return
        undecipherable = self.channel.unbelieved
        log.warning(
            "the device listens, but no audio of it arrives",
            device=self.device_id,
            session=self.session_id[:8],
            told_to_send_to=self._audio_address,
            undecipherable_packets=undecipherable,
            likely_cause="it uses another key or frame duration than hello said"
            if undecipherable
            else "that address or port is wrong (advertise.host, advertise.udp_port), or a firewall or NAT drops UDP to it",
        )
        self._services.metrics.audio_path_closed()
        self._send(Alert(session_id=self.session_id, status="XiaoZhi bridge", message=self._phrases.no_audio, emotion="sad"))

    # -- what the ear hears ------------------------------------------------------------------------------------------------
    def speech_started(self) -> None:
        self._active_at = asyncio.get_running_loop().time()
        self._drop_early()

    def speech_paused(self, so_far: Utterance) -> None:
        if self._services.engines.asr.early and self._tasks is not None and self.state is State.LISTENING:
            self._drop_early()
            self._early = self._tasks.create_task(self._transcribe_early(so_far), name="early transcription")

    def speech_resumed(self) -> None:
        self._drop_early()

    def may_end(self) -> bool:
        early = self._early
        if early is None or not early.done() or early.cancelled():
            return True
        transcript = early.result()
        return transcript is None or not sounds_unfinished(transcript.text)

    def barged_in(self) -> None:
        if self._settings.session.barge_in:
            self._event(Event.BARGE_IN)

    def utterance_finished(self, utterance: Utterance) -> None:
        early, self._early = self._early, None
        if self.state is State.THINKING and self._turn is None:  # `listen stop` has brought us here
            self._start_turn(Request(utterance=utterance if self._worth_hearing(utterance) else None))
            return
        if self.state is State.THINKING and self._unanswered is not None:
            # Full duplex: the user goes on before we have said anything, so both parts are one request.
            utterance.continue_from(self._unanswered)
            early = None
        self._event(Event.UTTERANCE, Request(utterance=utterance, transcript=early))

    def _worth_hearing(self, utterance: Utterance) -> bool:
        """Push-to-talk says that there is speech; only silence is not worth a transcription."""
        if utterance.speech_ms:
            return True
        return any(len(frame) and int(abs(frame).max()) > QUIET_PEAK for frame in utterance.frames)

    async def _transcribe_early(self, utterance: Utterance) -> Transcript | None:
        try:
            return await transcribe(self._services.engines.asr, utterance, timeout_s=self._limits.asr_s)
        except ProviderError:
            return None  # the turn transcribes again, and answers for it

    def _drop_early(self) -> None:
        if self._early is not None:
            self._early.cancel()
            self._early = None

    # -- the dialogue ------------------------------------------------------------------------------------------------------
    def _event(self, event: Event, request: Request | None = None) -> None:
        before, step = self.state, move(self.state, event, self.mode)
        self.state = step.state
        log.debug("dialogue", because=event, before=before, after=step.state)
        stopped = False
        for action in step.actions:
            match action:
                case Action.OPEN_EAR:
                    self._drop_early()
                    self._ear.open(self.mode, keep_speech=event in {Event.SPOKEN, Event.NOTHING_HEARD})
                case Action.CLOSE_EAR:
                    self._drop_early()
                    self._ear.close()
                case Action.FINISH_UTTERANCE:
                    self._drop_early()
                    self._ear.finish()
                case Action.START_TURN:
                    self._start_turn(request or Request())
                case Action.CANCEL_TURN:
                    stopped = self._cancel_turn()
                case Action.STOP_PLAYBACK if not stopped:
                    self._send(TtsStop(session_id=self.session_id))
                case Action.STOP_PLAYBACK:
                    pass  # the cancelled turn has said so
                case Action.QUEUE:
                    self._waiting.append((request or Request()).say)

    def _cancel_turn(self) -> bool:
        """Stop the turn on the wire at once; True when it had to send `tts stop`."""
        turn, self._turn = self._turn, None
        mouth, self._mouth = self._mouth, None
        stopped = mouth.shut() if mouth is not None else False
        if turn is not None:
            turn.cancel()
        return stopped

    def _start_turn(self, request: Request) -> None:
        if self._tasks is None or self.ended:
            return
        self.turns += 1
        self._unanswered = request.utterance
        self._mouth = Mouth(
            session_id=self.session_id,
            send=self._send,
            channel=self.channel,
            next_timestamp_ms=self._next_timestamp_ms,
            on_start=self._speech_started,
        )
        turn = Turn(
            number=self.turns,
            request=request,
            output=self._mouth,
            engines=self._services.engines,
            audio=self._audio,
            lead_frames=self._lead.frames(jitter_ms=self.line.channel.reception.jitter_ms),
            limits=self._limits,
            history=self._history,
            system_prompt=self._system_prompt,
            toolbox=self.toolbox,
            answer_intent=self._answer_intent,
            run_tool=self._run_tool,
            heard_text=self._without_wake_word,
        )
        self._turn = self._tasks.create_task(self._run_turn(turn), name=f"turn {self.turns}")

    async def _run_turn(self, turn: Turn) -> None:
        mouth = self._mouth
        with bound(turn=turn.number):
            try:
                await turn.run()
            finally:
                self._services.metrics.turn(turn)
        if self._mouth is not mouth:
            return  # cancelled, but an engine has swallowed it
        self._turn = self._mouth = self._unanswered = None
        self._event(Event.SPOKEN if turn.spoke else Event.NOTHING_HEARD)
        if turn.end_session:
            self.end("the conversation has ended", goodbye=True)
        elif self._relisten is None:
            self._announce_waiting()

    def _speech_started(self) -> None:
        if self.mode is not Mode.REALTIME:  # half duplex: the device stops listening while it speaks
            self._microphone_off()
        self._unanswered = None
        self._event(Event.SPEAK)

    # -- what a turn needs -------------------------------------------------------------------------------------------------
    @property
    def _limits(self) -> TurnLimits:
        return TurnLimits(tool_rounds=self._settings.session.max_tool_rounds)

    @property
    def _phrases(self) -> Phrases:
        return phrases(language_of(self._settings.assistant.prompt))

    def _next_timestamp_ms(self) -> int:
        self._played_ms += self._audio.frame_ms
        return self._played_ms if self._server_aec else 0

    def _system_prompt(self) -> str:
        return system_prompt(self._settings.assistant, self._services.timezone)

    def _without_wake_word(self, text: str) -> str:
        return without_prefix(text, self._wake_word) if self._wake_word else text

    async def _answer_intent(self, intent: Intent) -> SkillReply | None:
        return await self._services.skills.answer(intent, _Context(self.toolbox, self.timers, intent.language, self._services.timezone))

    def _run_tool(self, call: Coroutine[Any, Any, ToolResult]) -> asyncio.Task[ToolResult]:
        """A tool outlives the turn that asked for it: what has begun to change the world is not stopped half-way."""
        if self._tasks is None:
            raise RuntimeError("the session has ended")
        return self._tasks.create_task(call, name="tool")
