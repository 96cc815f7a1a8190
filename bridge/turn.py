"""One voice turn: hear -> think -> speak -> play, and whatever goes wrong in it.

Three tasks and two bounded queues: while sentence n plays, n+1 is synthesised and n+2 thought of. Cancelling the task
stops every stage; `tts stop` is sent once for every `tts start`, on every way out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import structlog

from bridge.codec_pool import CodecPool
from bridge.ear import Utterance
from bridge.emotions import NEUTRAL
from bridge.history import History
from bridge.phrases import language_of, phrases
from bridge.reply import ModelReply, Sentence, sentence_of
from bridge.skills import SkillReply
from bridge.streams import patient
from bridge.voice import VoiceEncoder, packets
from iot.toolbox import ToolBox
from providers.base import Intent, IntentRecognizer, Llm, Message, PcmFrame, ProviderError, SpeechToText, TextToSpeech, Transcript
from providers.tools import ToolResult
from settings.model import Audio
from udp_audio.pacer import Pacer

log = structlog.get_logger(__name__)

START_GUARD_S = 0.13
"""From `tts start` to the first packet: the device clears its queue one main-loop pass after it changes state.

At least 0.1 must be left of it where it arrives: `tts start` takes the slower way (TCP).
"""
STOP_AFTER_S = 0.1
"""From the modelled end of playback to `tts stop`."""
SECOND_CHANCE_S = 1.0
"""For recognition after the early one has failed, however long that took."""
ADDRESS_WAIT_S = 5.0
SENTENCES_AHEAD = 2
FRAMES_AHEAD_S = 2.0

Outcome = Literal["answered", "nothing heard", "silent", "failed", "interrupted"]


class TurnOutput(Protocol):
    """Where a turn speaks: the session's control messages and audio channel."""

    def heard(self, text: str) -> None:
        """`stt`"""

    def emotion(self, name: str) -> None: ...

    def speech_starts(self) -> None:
        """`tts start`"""

    def sentence(self, text: str) -> None: ...

    def audio(self, packet: bytes) -> None: ...

    def speech_stops(self) -> None:
        """`tts stop`; what has not been sent yet is dropped."""

    def alert(self, text: str) -> None: ...

    async def address_known(self) -> None:
        """Wait until audio can be sent."""


@dataclass(slots=True)
class Stamps:
    """Loop times of one turn in seconds; 0 means that it was not reached."""

    speech_end: float = 0.0
    committed: float = 0.0
    asr_final: float = 0.0
    llm_first: float = 0.0
    tts_first: float = 0.0
    first_packet: float = 0.0
    playback_end: float = 0.0

    def since_speech_ms(self) -> dict[str, int]:
        """Milliseconds from the end of speech to each stamp that was reached; nothing for what no speech has asked for."""
        names = ("committed", "asr_final", "llm_first", "tts_first", "first_packet", "playback_end")
        start = self.speech_end or self.committed
        return {f"{name}_ms": round((getattr(self, name) - start) * 1000) for name in names if start and getattr(self, name)}


@dataclass(frozen=True, slots=True)
class Engines:
    """The providers of a turn."""

    asr: SpeechToText
    llm: Llm
    tts: TextToSpeech
    intents: IntentRecognizer
    codec: CodecPool
    """Where Opus is encoded."""


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """How patient a turn is, in seconds a piece."""

    asr_s: float = 15.0
    llm_s: float = 20.0
    tts_s: float = 15.0
    tool_rounds: int = 4


@dataclass(slots=True)
class Request:
    """What a turn is about: an utterance to be heard (perhaps already being transcribed), or text to be said as it is."""

    utterance: Utterance | None = None
    transcript: asyncio.Task[Transcript | None] | None = None
    say: str = ""


@dataclass(slots=True)
class Turn:
    """One turn; :meth:`run` once."""

    number: int
    request: Request
    output: TurnOutput
    engines: Engines
    audio: Audio
    limits: TurnLimits
    history: History
    system_prompt: Callable[[], str]
    toolbox: ToolBox
    answer_intent: Callable[[Intent], Coroutine[Any, Any, SkillReply | None]]
    run_tool: Callable[[Coroutine[Any, Any, ToolResult]], asyncio.Task[ToolResult]]
    heard_text: Callable[[str], str]
    """What of the transcript is meant for us: without the wake word."""
    lead_frames: int | None = None
    """Frames ahead of playback, when the device needs others than the settings say."""
    stamps: Stamps = field(default_factory=Stamps)
    text: str = ""
    language: str = "en"
    end_session: bool = False
    outcome: Outcome = "silent"
    failures: list[str] = field(default_factory=list)
    spoke: bool = False
    """`tts start` was sent."""
    _started_at: float = 0.0
    _played: list[tuple[str, float]] = field(default_factory=list)
    """Sentences with the loop time at which their playback begins."""
    _tool_messages: list[Message] = field(default_factory=list)
    _encoding_since: float = 0.0
    _encoded: int = 0
    """Packets of this answer so far."""

    # -- the whole turn ----------------------------------------------------------------------------------------------------
    async def run(self) -> Outcome:
        """Run the turn. Never raises but when cancelled; then the device has been told to stop and the history is cut."""
        try:
            async with asyncio.TaskGroup() as stages:
                sentences: asyncio.Queue[Sentence | None] = asyncio.Queue(SENTENCES_AHEAD)
                frames: asyncio.Queue[str | bytes | None] = asyncio.Queue(int(FRAMES_AHEAD_S * 1000 / self.audio.frame_ms))
                stages.create_task(self._think(sentences), name="think")
                stages.create_task(self._speak(sentences, frames), name="speak")
                stages.create_task(self._play(frames), name="play")
        except asyncio.CancelledError:
            self.outcome = "interrupted"
            raise
        except Exception as error:
            self._failed("turn", error)
            log.exception("a turn has failed")
            self.output.alert(phrases(self.language).went_wrong)
        finally:
            self._close()
        return self.outcome

    def _close(self) -> None:
        now = asyncio.get_running_loop().time()
        self.output.speech_stops()
        interrupted = self.outcome == "interrupted"
        heard = [text for text, begins in self._played if begins <= now]
        if self.text or heard:
            self.history.add(user=self.text, heard=heard, tools=self._tool_messages, interrupted=interrupted, language=self.language)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _failed(self, stage: str, error: BaseException) -> None:
        self.failures.append(stage)
        self.outcome = "failed"
        log.warning("a stage of the turn has failed", stage=stage, error=str(error) or type(error).__name__)

    # -- hear and think ----------------------------------------------------------------------------------------------------
    async def _think(self, out: asyncio.Queue[Sentence | None]) -> None:
        async with aclosing(self._sentences()) as sentences:
            async for sentence in sentences:
                await out.put(sentence)
        await out.put(None)

    async def _sentences(self) -> AsyncGenerator[Sentence, None]:
        if self.request.say:
            self.language = language_of(self.request.say)
            self._start_speech()
            if sentence := sentence_of(self.request.say):
                yield sentence
            return
        try:
            heard = await self._transcribe()
        except ProviderError as error:
            self._failed("asr", error)
            self._start_speech()
            yield self._apology("did_not_hear")
            return
        if not heard:
            self.outcome = "nothing heard"
            return
        intent = await self.engines.intents.recognize(self.text, language=self.language)
        reply = await self.answer_intent(intent) if intent else None
        if reply is not None:
            self.stamps.llm_first = self._now()
            self.end_session = reply.end_session
            if not reply.silent:
                self._start_speech()
                yield Sentence(reply.text, reply.emotion)
            return
        self._start_speech()
        spoken = self.engines.llm.languages
        if spoken is not None and self.language.partition("-")[0] not in spoken:
            yield Sentence(phrases(self.language).no_model)
            return
        async with aclosing(self._model_answer()) as sentences:
            async for sentence in sentences:
                yield sentence

    async def _transcribe(self) -> bool:
        """Fill ``text`` and ``language`` and show them; False when there is nothing to answer. Raises ProviderError."""
        utterance = self.request.utterance
        self.stamps.committed = self._now()
        if utterance is None:
            return False
        self.stamps.speech_end = utterance.speech_end
        task = self.request.transcript
        early = await task if task else None
        left_s = self.limits.asr_s - (self._now() - self.stamps.committed)  # a recogniser that stalls is not waited for twice
        transcript = early or await transcribe(self.engines.asr, utterance, timeout_s=max(SECOND_CHANCE_S, left_s))
        self.stamps.asr_final = self._now()
        text = self.heard_text(transcript.text.strip())
        if not any(character.isalnum() for character in text):
            return False
        self.text, self.language = text, transcript.language or language_of(text)
        self.output.heard(text)
        return True

    async def _model_answer(self) -> AsyncGenerator[Sentence, None]:
        reply = ModelReply(
            llm=self.engines.llm,
            toolbox=self.toolbox,
            run_tool=self.run_tool,
            max_rounds=self.limits.tool_rounds,
            piece_timeout_s=self.limits.llm_s,
            language=self.language,
            on_first=self._llm_answers,
            tool_messages=self._tool_messages,
        )
        history = [
            Message("system", self.system_prompt()),
            *self.history.messages(languages=self.engines.llm.languages),
            Message("user", self.text),
        ]
        said = False
        try:
            async with aclosing(reply.sentences(history)) as sentences:
                async for sentence in sentences:
                    said = said or bool(sentence.text)
                    yield sentence
        except ProviderError as error:
            self._failed("llm", error)
            said = True
            yield self._apology("cannot_think")
        if not said and not reply.done:
            log.warning("the language model said nothing", after_tools=reply.acted)
            yield Sentence(phrases(self.language).done) if reply.acted else self._apology("went_wrong")
        self.end_session = reply.end_session

    def _llm_answers(self) -> None:
        self.stamps.llm_first = self.stamps.llm_first or self._now()

    def _apology(self, name: str) -> Sentence:
        text: str = getattr(phrases(self.language), name)
        return Sentence(text, "sad")

    def _start_speech(self) -> None:
        """`tts start`, as soon as an answer is certain: the device needs the time until the first packet."""
        if not self.spoke:
            self.spoke, self._started_at = True, self._now()
            self.output.emotion(NEUTRAL)
            self.output.speech_starts()

    # -- speak -------------------------------------------------------------------------------------------------------------
    async def _speak(self, sentences: asyncio.Queue[Sentence | None], out: asyncio.Queue[str | bytes | None]) -> None:
        encoder: VoiceEncoder | None = None
        silenced = False
        while (sentence := await sentences.get()) is not None:
            if sentence.emotion:
                self.output.emotion(sentence.emotion)
            if not sentence.text:
                continue
            if encoder is None:
                encoder = VoiceEncoder(self.audio)
            if silenced:
                self.output.alert(sentence.text)
                continue
            try:
                await self._synthesize(sentence.text, encoder, out)
            except ProviderError as error:
                self._failed("tts", error)
                self.output.alert(f"{phrases(self.language).cannot_speak} {sentence.text}")
                silenced, encoder = True, None
        await out.put(None)

    async def _synthesize(self, text: str, encoder: VoiceEncoder, out: asyncio.Queue[str | bytes | None]) -> None:
        speech = patient(self._first_speech(text), seconds=self.limits.tts_s, what="speech synthesis")
        first = True
        async with aclosing(packets(speech, encoder, self.engines.codec, due=self._next_due)) as encoded:
            async for packet in encoded:
                if first:
                    first = False
                    await out.put(text)
                self._encoded += 1
                await out.put(packet)

    def _lead(self) -> int:
        return self.lead_frames or self.audio.lead_frames

    def _next_due(self) -> float:
        """When the packet after those that are encoded is to be sent, if the first is sent as soon as there is one."""
        self._encoding_since = self._encoding_since or self._now()
        behind_lead = max(0, self._encoded - self._lead() + 1)
        return self._encoding_since + behind_lead * self.audio.frame_ms / 1000

    async def _first_speech(self, text: str) -> AsyncGenerator[PcmFrame, None]:
        async with aclosing(self.engines.tts.synthesize(text)) as speech:
            async for frame in speech:
                self.stamps.tts_first = self.stamps.tts_first or self._now()
                yield frame

    # -- play --------------------------------------------------------------------------------------------------------------
    async def _play(self, frames: asyncio.Queue[str | bytes | None]) -> None:
        """Send each frame when the playback clock says so, and a sentence's text with its first frame."""
        pacer = Pacer(frame_s=self.audio.frame_ms / 1000, lead_frames=self._lead())
        pending = ""
        while (item := await frames.get()) is not None:
            if isinstance(item, str):
                pending = item
                continue
            if not pacer.started:
                await self._first_packet_due()
            await _sleep_until(pacer.next_send(self._now()))
            if pending:
                self.output.sentence(pending)
                self._played.append((pending, max(self._now(), pacer.playback_end)))
                pending = ""
            self.output.audio(item)
            pacer.sent(self._now())
        if pacer.started:
            await _sleep_until(pacer.playback_end)
            self.stamps.playback_end = self._now()
            if self.outcome == "silent":
                self.outcome = "answered"
            await asyncio.sleep(STOP_AFTER_S)

    async def _first_packet_due(self) -> None:
        await _sleep_until(self._started_at + START_GUARD_S)
        try:
            async with asyncio.timeout(ADDRESS_WAIT_S):
                await self.output.address_known()
        except TimeoutError:
            log.warning("no audio has come from the device, so its address is not known: the answer cannot be heard")
        self.stamps.first_packet = self._now()


async def transcribe(asr: SpeechToText, utterance: Utterance, *, timeout_s: float) -> Transcript:
    """The final transcript of an utterance. Raises ProviderError."""

    async def audio() -> AsyncGenerator[PcmFrame, None]:
        yield utterance.audio()

    final = Transcript("")
    async with aclosing(patient(asr.transcribe(audio()), seconds=timeout_s, what="speech recognition")) as transcripts:
        async for transcript in transcripts:
            final = transcript
    return final


async def _sleep_until(when: float) -> None:
    delay = when - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)
