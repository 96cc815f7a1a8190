"""One frozen configuration per provider kind, discriminated by ``kind``.

A new built-in provider adds its class here and to the union of its role; a third party's provider arrives as
``kind: <entry point name>`` with free options (:class:`PluginConfig`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class ProviderConfig(BaseModel):
    """What all provider configurations share: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PluginConfig(BaseModel):
    """A provider that another package brings by entry point; its options are passed on as they are."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str

    def options(self) -> dict[str, Any]:
        """The options without ``kind``."""
        return dict(self.model_extra or {})


# -- voice activity ----------------------------------------------------------------------------------------------------
class SileroVad(ProviderConfig):
    kind: Literal["silero"] = "silero"
    model_path: Path | None = Field(None, description="the ONNX file; found by itself when empty")
    threshold: float = Field(0.5, gt=0, lt=1, description="speech probability at which speech begins")
    release_threshold: float = Field(0.35, gt=0, lt=1, description="speech probability under which silence begins")
    silence_ms: int = Field(500, ge=100, le=5000, description="silence that ends an utterance")
    max_silence_ms: int = Field(1200, ge=100, le=10000, description="silence that ends an utterance whose words sound unfinished")
    min_speech_ms: int = Field(128, ge=32, le=2000, description="voice that is needed before anything counts as speech")
    pre_roll_ms: int = Field(400, ge=0, le=2000, description="audio kept from before the first voiced frame")


class PluginVad(PluginConfig):
    """Another package's voice activity detector: its own options, and the timing that the bridge applies to any detector."""

    threshold: float = Field(0.5, gt=0, lt=1)
    release_threshold: float = Field(0.35, gt=0, lt=1)
    silence_ms: int = Field(500, ge=100, le=5000)
    max_silence_ms: int = Field(1200, ge=100, le=10000)
    min_speech_ms: int = Field(128, ge=32, le=2000)
    pre_roll_ms: int = Field(400, ge=0, le=2000)


# -- speech to text ----------------------------------------------------------------------------------------------------
class WhisperAsr(ProviderConfig):
    kind: Literal["whisper"] = "whisper"
    model: str = Field("whisper-base", description="name in the model table, or a directory with a CTranslate2 Whisper model")
    language: str | None = Field(None, description="BCP 47 code such as en or zh; found by itself when empty")
    chinese_script: Literal["simplified", "traditional", "as-is"] = "simplified"
    threads: int = Field(2, ge=1, le=64)
    early: bool = Field(True, description="transcribe during the silence that ends an utterance, not after it")


class OpenAiAsr(ProviderConfig):
    kind: Literal["openai"] = "openai"
    base_url: str = Field("https://api.openai.com/v1", description="any OpenAI-compatible endpoint")
    api_key: SecretStr = SecretStr("")
    model: str = "whisper-1"
    language: str | None = None
    timeout_s: float = Field(20, gt=0)
    retries: int = Field(1, ge=0, le=10)
    early: bool = Field(False, description="transcribe during the silence that ends an utterance: faster, more requests")


# -- language model ----------------------------------------------------------------------------------------------------
class LlamaCppLlm(ProviderConfig):
    kind: Literal["llama_cpp"] = "llama_cpp"
    model: str = Field("smollm2-135m-instruct", description="name in the model table, or the path of a GGUF file")
    context_tokens: int = Field(4096, ge=512)
    threads: int | None = Field(None, ge=1, le=64, description="all processors but one when empty: the voice speaks while the model writes")
    temperature: float = Field(0.3, ge=0, le=2)
    max_tokens: int = Field(160, ge=1, le=8192)
    tools: bool = Field(False, description="offer tools to the model; the small default model cannot call them")


class OpenAiLlm(ProviderConfig):
    kind: Literal["openai"] = "openai"
    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr = SecretStr("")
    model: str = "gpt-4o-mini"
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)
    timeout_s: float = Field(30, gt=0, description="longest wait for the next piece of the answer")
    retries: int = Field(1, ge=0, le=10)
    tools: bool = True


# -- text to speech ----------------------------------------------------------------------------------------------------
class PiperTts(ProviderConfig):
    kind: Literal["piper"] = "piper"
    voice: str = Field("piper-en-us-joe-medium", description="name in the model table, or the path of a voice's ONNX file")
    speed: float = Field(1.0, gt=0.3, lt=3)


class KokoroTts(ProviderConfig):
    kind: Literal["kokoro"] = "kokoro"
    model: str = "kokoro-82m-int8"
    voice: str = "zf_xiaoxiao"
    speed: float = Field(1.0, gt=0.3, lt=3)
    threads: int = Field(2, ge=1, le=64)


class LocalTts(ProviderConfig):
    """Each sentence by the voice that speaks its script: Piper for Latin, Kokoro for Chinese."""

    kind: Literal["local"] = "local"
    latin: PiperTts = PiperTts()
    chinese: KokoroTts = KokoroTts()


class OpenAiTts(ProviderConfig):
    kind: Literal["openai"] = "openai"
    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr = SecretStr("")
    model: str = "gpt-4o-mini-tts"
    voice: str = "alloy"
    speed: float | None = Field(None, gt=0.2, lt=4)
    sample_rate_hz: int = Field(24000, description="rate of the raw PCM that the endpoint sends when it does not say")
    timeout_s: float = Field(20, gt=0)
    retries: int = Field(1, ge=0, le=10)


# -- intents -----------------------------------------------------------------------------------------------------------
class HassilIntents(ProviderConfig):
    kind: Literal["hassil"] = "hassil"
    languages: tuple[str, ...] = Field(("en", "zh-CN"), description="languages whose sentences are understood without a model")


class NoIntents(ProviderConfig):
    kind: Literal["none"] = "none"


VadConfig = SileroVad
AsrConfig = Annotated[WhisperAsr | OpenAiAsr, Field(discriminator="kind")]
LlmConfig = Annotated[LlamaCppLlm | OpenAiLlm, Field(discriminator="kind")]
TtsConfig = Annotated[LocalTts | PiperTts | KokoroTts | OpenAiTts, Field(discriminator="kind")]
IntentConfig = Annotated[HassilIntents | NoIntents, Field(discriminator="kind")]
