"""The settings tree. Units are in the names; every default runs on a fresh machine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from settings.providers import (
    AsrConfig,
    HassilIntents,
    IntentConfig,
    LlamaCppLlm,
    LlmConfig,
    LocalTts,
    SileroVad,
    TtsConfig,
    VadConfig,
    WhisperAsr,
)

Port = int


class Branch(BaseModel):
    """A branch of the tree: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Http(Branch):
    """OTA hand-off, health, metrics."""

    host: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104 - devices on the LAN must reach it
    port: Port = Field(8003, ge=0, le=65535, description="0: any free one")


class MqttTls(Branch):
    port: Port = Field(8883, ge=0, le=65535)
    certificate: Path | None = Field(None, description="PEM chain; with it and private_key the TLS listener is on")
    private_key: Path | None = None


class Mqtt(Branch):
    """The front that devices connect to."""

    host: str = Field("0.0.0.0")  # noqa: S104
    port: Port = Field(1883, ge=0, le=65535, description="0: any free one")
    tls: MqttTls = MqttTls()
    keepalive_s: int = Field(240, ge=0, le=65535, description="what devices are told to use")
    connect_timeout_s: float = Field(10, gt=0, description="longest wait from TCP accept to a whole CONNECT")
    max_packet_bytes: int = Field(131072, ge=65536)
    write_buffer_bytes: int = Field(131072, ge=16384, description="a device that reads slower than this fills is closed")
    max_connections: int = Field(10000, ge=1)


class Udp(Branch):
    """Where audio arrives."""

    host: str = Field("0.0.0.0")  # noqa: S104
    port: Port = Field(8884, ge=0, le=65535, description="0: any free one")
    receive_buffer_bytes: int = Field(4 * 1024 * 1024, ge=65536)


class Advertise(Branch):
    """What devices are told to connect to."""

    host: str | None = Field(None, description="name or IPv4 address; the LAN address is found by itself when empty")
    mqtt_port: Port | None = Field(None, ge=1, le=65535, description="when a router maps another port")
    udp_port: Port | None = Field(None, ge=1, le=65535)


class Audio(Branch):
    """Downlink speech format."""

    sample_rate_hz: Literal[8000, 12000, 16000, 24000, 48000] = 24000
    frame_ms: Literal[20, 40, 60] = 60
    bitrate_bps: int = Field(32000, ge=6000, le=128000)
    complexity: int = Field(3, ge=0, le=10, description="Opus encoder effort")
    lead_frames: int = Field(4, ge=1, le=20, description="frames sent ahead of playback")


class Session(Branch):
    idle_timeout_s: float = Field(90, ge=5, description="silence after which the session ends politely")
    grace_s: float = Field(60, ge=5, description="how long a session outlives its MQTT connection")
    max_utterance_s: float = Field(30, ge=2, le=120)
    history_turns: int = Field(12, ge=0, le=200)
    greeting: str = Field("", description="spoken after the wake word; empty: just listen")
    barge_in: bool = Field(True, description="in realtime mode, speech interrupts the answer")
    tool_timeout_s: float = Field(10, gt=0)
    max_tool_rounds: int = Field(4, ge=0, le=20)


class Assistant(Branch):
    name: str = "XiaoZhi"
    prompt: str = Field(
        "You are {name}, a friendly voice assistant in a small speaker. Answer in the user's language, "
        "in one to three short sentences, in plain spoken words without markdown, lists or emoji.",
        description="system prompt; {name} is replaced",
    )
    timezone: str | None = Field(None, description="IANA name such as Europe/Berlin; the machine's when empty")


class Models(Branch):
    offline: bool = Field(False, description="true: nothing is ever downloaded")
    hub_url: str = Field("https://huggingface.co", description="model hub or a mirror of it")


class Log(Branch):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = Field("auto", description="auto: console on a terminal, else json")
    file: Path | None = None
    file_max_bytes: int = Field(10_000_000, ge=10_000)
    file_backups: int = Field(3, ge=0, le=100)
    transcripts: bool = Field(False, description="true: what is heard and said stands in the log")
    tracebacks: bool = Field(False, description="true: errors come with their traceback")


class MetricsExport(Branch):
    """What ``/metrics`` shows."""

    per_device: Literal["auto", "on", "off"] = Field("auto", description="series of each device; auto: while there are at most 50")

    @field_validator("per_device", mode="before")
    @classmethod
    def _yaml_words(cls, value: object) -> object:
        """YAML reads on and off as booleans."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class Admin(Branch):
    token: SecretStr = Field(
        SecretStr(""),
        description="bearer token of the admin API; empty: a random one, left in admin.json of data_dir for commands on this machine",
    )


class SettingsTree(Branch):
    """The whole tree; :mod:`settings.load` builds it."""

    http: Http = Http()
    mqtt: Mqtt = Mqtt()
    udp: Udp = Udp()
    advertise: Advertise = Advertise()
    data_dir: Path = Field(Path("data"), description="device registry, models, logs")
    enrolment: Literal["open", "code", "closed"] = Field(
        "open",
        description="open: a new device is let in at once; code: it shows a code that a person confirms; closed: only known devices",
    )
    audio: Audio = Audio()
    session: Session = Session()
    assistant: Assistant = Assistant()
    vad: VadConfig = SileroVad()
    asr: AsrConfig = WhisperAsr()
    llm: LlmConfig = LlamaCppLlm()
    tts: TtsConfig = LocalTts()
    intent: IntentConfig = HassilIntents()
    models: Models = Models()
    admin: Admin = Admin()
    metrics: MetricsExport = MetricsExport()
    log: Log = Log()
