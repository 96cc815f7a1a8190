"""The settings tree. Units are in the names; every default runs on a fresh machine."""

from __future__ import annotations

from ipaddress import ip_network
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

    host: str = Field("0.0.0.0", description="address to listen on; :: is all, IPv6 and IPv4")  # noqa: S104 - devices on the LAN must reach it
    port: Port = Field(8003, ge=0, le=65535, description="0: any free one")


class MqttTls(Branch):
    port: Port = Field(8883, ge=0, le=65535)
    certificate: Path | None = Field(None, description="PEM chain; with it and private_key the TLS listener is on")
    private_key: Path | None = None


class Mqtt(Branch):
    """The front that devices connect to."""

    host: str = Field("0.0.0.0")  # noqa: S104
    port: Port = Field(1883, ge=0, le=65535, description="0: any free one")
    plain: bool = Field(True, description="false: only TLS; then devices are told the TLS port")
    tls: MqttTls = MqttTls()
    keepalive_s: int = Field(240, ge=0, le=65535, description="what devices are told to use")
    connect_timeout_s: float = Field(10, gt=0, description="longest wait from TCP accept to a whole CONNECT")
    max_packet_bytes: int = Field(131072, ge=65536)
    write_buffer_bytes: int = Field(131072, ge=16384, description="a device that reads slower than this fills is closed")
    max_connections: int = Field(10000, ge=1)
    max_unauthenticated: int = Field(
        1000, ge=1, description="connections that have not proved who they are; beyond, the one that has waited longest is closed"
    )
    max_unauthenticated_per_source: int = Field(300, ge=1, description="the same for one address")
    ack_timeout_s: float = Field(
        20, ge=0, description="a device that does not acknowledge what it was sent for so long is gone (Linux); 0: the system's patience"
    )


class Control(Branch):
    """How control messages travel."""

    mode: Literal["front", "broker", "both"] = Field(
        "front",
        description="front: devices connect to this server; broker: this server and the devices meet at your own MQTT broker "
        "(docs/mosquitto.md: stock firmware never subscribes, so not every broker serves it); both: each device uses either",
    )


class BrokerTls(Branch):
    enabled: bool = False
    ca_file: Path | None = Field(None, description="PEM file of the authority that signed the broker's certificate; empty: the system's")


class Broker(Branch):
    """Your own MQTT broker, with control.mode broker or both. Its ACL says who is which device: see mosquitto.conf."""

    host: str = Field("127.0.0.1", min_length=1, max_length=253)
    port: Port = Field(1883, ge=1, le=65535)
    username: str = Field("", description="of this server; empty: none")
    password: SecretStr = SecretStr("")
    tls: BrokerTls = BrokerTls()
    client_id: str = Field("xiaozhi-bridge-control", min_length=1, max_length=64, description="another one for each server at one broker")
    keepalive_s: int = Field(30, ge=5, le=3600, description="of this server's connection; a dead broker is noticed within twice that time")
    topic_root: str = Field(
        "xiaozhi",
        pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$",
        description="messages travel on <root>/<MAC, 12 hex digits>/up and .../down",
    )
    advertise_host: str | None = Field(None, description="name or IPv4 address that devices are told; host when empty")
    advertise_port: Port | None = Field(None, ge=1, le=65535, description="port that devices are told; 8883 makes them use TLS")
    devices: tuple[str, ...] = Field(
        (), description="with control.mode both: who is sent to the broker, as MAC addresses or board names, * stands for anything"
    )
    queue_messages: int = Field(1000, ge=10, description="waiting to be sent; when full, further ones are refused and counted")
    reconnect_max_s: float = Field(30, ge=1, le=3600, description="longest wait between two attempts to connect")
    resubscribe_s: float = Field(
        12,
        ge=0,
        le=120,
        description="after the broker was away, how long messages wait for a device not heard since (firmware reconnects after 10 s)",
    )
    outage_s: float = Field(60, ge=1, description="when the broker is away for longer, its devices count as disconnected")
    silence_s: float = Field(86400, ge=60, description="a device that says nothing for so long counts as disconnected")


class Udp(Branch):
    """Where audio arrives."""

    host: str = Field("0.0.0.0")  # noqa: S104
    port: Port = Field(8884, ge=0, le=65535, description="0: any free one")
    receive_buffer_bytes: int = Field(4 * 1024 * 1024, ge=65536)


class WebSocket(Branch):
    """The other transport of devices, on the HTTP port: JSON and audio over one connection (docs/websocket.md)."""

    enabled: bool = Field(False, description="true: it is served, and offered as advertise.transport says")
    version: Literal[1, 2, 3] = Field(3, description="binary protocol that devices are told to use; all three are understood")
    hello_timeout_s: float = Field(10, gt=0, description="longest wait from the connection to a hello")
    max_connections: int = Field(2000, ge=1, description="open at the same time; beyond, devices are told to come later")


class Advertise(Branch):
    """What devices are told to connect to."""

    transport: Literal["mqtt", "websocket", "both"] = Field(
        "both", description="what is offered of what is on; stock devices take MQTT whenever it is offered"
    )
    host: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$",
        description="name or IPv4 address, without a scheme or port; the LAN address is found by itself when empty",
    )
    mqtt_port: Port | None = Field(None, ge=1, le=65535, description="when a router maps another port")
    udp_port: Port | None = Field(None, ge=1, le=65535)
    websocket_url: str | None = Field(
        None,
        pattern=r"^wss?://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?(/[!-~]*)?$",
        description="when a proxy has another address, such as wss://voice.example.org/xiaozhi/v1/",
    )


class Audio(Branch):
    """Downlink speech format."""

    sample_rate_hz: Literal[8000, 12000, 16000, 24000, 48000] = 24000
    frame_ms: Literal[20, 40, 60] = Field(60, description="of the answers; a client that sends shorter frames gets those")
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


class Limits(Branch):
    """How much one source may ask; every number may also come at once. 200 devices behind one router may start together."""

    connections_per_minute: int = Field(3000, ge=1, description="new MQTT and WebSocket connections from one address")
    failed_logins_per_minute: int = Field(600, ge=1, description="wrong credentials from one address; beyond, it is turned away")
    turned_away_s: float = Field(60, ge=0, description="for how long connections are then refused")
    device_connections_per_minute: int = Field(120, ge=1, description="connections of one device")
    device_messages_per_minute: int = Field(6000, ge=1, description="messages of one device; beyond, it is read more slowly")
    device_hellos_per_minute: int = Field(1200, ge=1, description="sessions that one device opens")
    ota_requests_per_minute: int = Field(3000, ge=1, description="OTA requests from one address")
    firmware_downloads: int = Field(64, ge=1, le=10_000, description="firmware and asset downloads at once; further ones wait")
    exempt: tuple[str, ...] = Field((), description="networks without limits, such as 192.168.1.0/24")

    @field_validator("exempt")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                ip_network(text, strict=False)
            except ValueError:
                raise ValueError(f"{text!r} is no network such as 192.168.1.0/24 or fd00::/8") from None
        return value


class Admin(Branch):
    token: SecretStr = Field(
        SecretStr(""),
        description="bearer token of the admin API; empty: a random one, left in admin.json of data_dir for commands on this machine",
    )


class SettingsTree(Branch):
    """The whole tree; :mod:`settings.load` builds it."""

    http: Http = Http()
    mqtt: Mqtt = Mqtt()
    control: Control = Control()
    broker: Broker = Broker()
    udp: Udp = Udp()
    websocket: WebSocket = WebSocket()
    advertise: Advertise = Advertise()
    data_dir: Path = Field(Path("data"), description="device registry, models, logs")
    enrolment: Literal["open", "code", "closed"] = Field(
        "open",
        description="open: a new device is let in at once; code: it shows a code that a person confirms; closed: only known devices",
    )
    workers: int = Field(1, ge=1, le=256, description="processes that share the load, each with engines of its own (docs/workers.md)")
    audio: Audio = Audio()
    session: Session = Session()
    assistant: Assistant = Assistant()
    vad: VadConfig = SileroVad()
    asr: AsrConfig = WhisperAsr()
    llm: LlmConfig = LlamaCppLlm()
    tts: TtsConfig = LocalTts()
    intent: IntentConfig = HassilIntents()
    models: Models = Models()
    limits: Limits = Limits()
    admin: Admin = Admin()
    metrics: MetricsExport = MetricsExport()
    log: Log = Log()
