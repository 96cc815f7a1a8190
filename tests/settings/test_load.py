"""Layers, origins, and errors that a person can act on."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from settings import reference, schema
from settings.load import MASK, Loaded, SettingsError, load
from settings.model import SettingsTree
from settings.providers import LlamaCppLlm, OpenAiLlm, OpenAiTts, PluginConfig, PluginVad

ROOT = Path(__file__).parents[2]


def read(directory: Path, text: str = "", environ: dict[str, str] | None = None, **options: Any) -> Loaded:
    (directory / "config.yaml").write_text(text, encoding="utf-8")
    return load(environ=environ or {}, directory=directory, **options)


def problems(directory: Path, text: str = "", environ: dict[str, str] | None = None, **options: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        read(directory, text, environ, **options)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


# -- layers ------------------------------------------------------------------------------------------------------------
def test_nothing_given_is_the_default_tree(tmp_path: Path) -> None:
    loaded = load(environ={"PATH": "/bin"}, directory=tmp_path)
    assert loaded.tree == SettingsTree()
    assert loaded.file is None
    assert set(loaded.origins.values()) == {"default"}
    assert set(loaded.origins) == {path for path, _ in schema.leaves(SettingsTree())}


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "mqtt:\n  tls:\nlog:\n", "{}"])
def test_empty_files_and_branches_are_fine(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).tree == SettingsTree()


def test_later_sources_win_and_origins_tell_which(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("XZ_MQTT__PORT=3\nXZ_UDP__PORT=3\nXZ_HTTP__PORT=3\nOTHER=1\n", encoding="utf-8")
    text = "# a comment\nmqtt:\n  port: 2\n  host: h\nudp: {port: 2}\nhttp:\n  port: 2\n"
    loaded = read(tmp_path, text, {"XZ_UDP__PORT": "4", "XZ_HTTP__PORT": "4"}, overrides={"http.port": "5"})
    tree = loaded.tree
    assert (tree.mqtt.host, tree.mqtt.port, tree.udp.port, tree.http.port) == ("h", 3, 4, 5)
    assert loaded.origins["mqtt.host"] == "config.yaml line 4"
    assert loaded.origins["mqtt.port"] == ".env XZ_MQTT__PORT"
    assert loaded.origins["udp.port"] == "environment XZ_UDP__PORT"
    assert loaded.origins["http.port"] == "command line http.port"
    assert loaded.origins["mqtt.tls.port"] == "default"


def test_was_set(tmp_path: Path) -> None:
    loaded = read(tmp_path, "mqtt:\n  tls:\n    port: 8883\n")
    assert loaded.was_set("mqtt.tls.port")
    assert loaded.was_set("mqtt")
    assert not loaded.was_set("mqtt.port")
    assert not loaded.was_set("udp")


def test_the_file_is_named_by_argument_then_by_environment_then_by_dotenv(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.yaml").write_text(f"assistant: {{name: {name}}}", encoding="utf-8")
    (tmp_path / ".env").write_text(f"XZ_CONFIG={tmp_path / 'c.yaml'}", encoding="utf-8")
    environ = {"XZ_CONFIG": str(tmp_path / "b.yaml")}
    assert load(tmp_path / "a.yaml", environ=environ, directory=tmp_path).tree.assistant.name == "a"
    assert load(environ=environ, directory=tmp_path).tree.assistant.name == "b"
    loaded = load(environ={}, directory=tmp_path)
    assert (loaded.tree.assistant.name, loaded.file) == ("c", tmp_path / "c.yaml")


def test_text_becomes_what_the_setting_takes(tmp_path: Path) -> None:
    environ = {
        "XZ_SESSION__BARGE_IN": "false",
        "XZ_SESSION__IDLE_TIMEOUT_S": "12.5",
        "XZ_AUDIO__SAMPLE_RATE_HZ": "16000",
        "XZ_ADVERTISE__HOST": "",
        "XZ_DATA_DIR": "/srv/x",
        "XZ_INTENT__LANGUAGES": "en, de",
        "XZ_ASR__LANGUAGE": "zh",
        "XZ_LLM": '{"kind": "openai", "model": "m"}',
        "XZ_ADMIN__TOKEN": "0123",
    }
    tree = read(tmp_path, "advertise: {host: h}", environ, overrides={"mqtt.port": 7}).tree
    assert tree.session.barge_in is False
    assert tree.session.idle_timeout_s == 12.5
    assert tree.audio.sample_rate_hz == 16000
    assert tree.advertise.host is None
    assert tree.data_dir == Path("/srv/x")
    assert tree.intent.languages == ("en", "de")  # type: ignore[union-attr]
    assert tree.asr.language == "zh"
    assert isinstance(tree.llm, OpenAiLlm)
    assert tree.admin.token.get_secret_value() == "0123"
    assert tree.mqtt.port == 7
    assert read(tmp_path, "", {"XZ_INTENT__LANGUAGES": '["fr"]'}).tree.intent.languages == ("fr",)  # type: ignore[union-attr]


# -- providers ---------------------------------------------------------------------------------------------------------
def test_kind_selects_the_provider(tmp_path: Path) -> None:
    loaded = read(tmp_path, "", {"XZ_LLM__KIND": "openai", "XZ_LLM__BASE_URL": "http://127.0.0.1:1/v1"})
    assert isinstance(loaded.tree.llm, OpenAiLlm)
    assert loaded.tree.llm.base_url == "http://127.0.0.1:1/v1"


def test_base_url_without_kind_means_openai(tmp_path: Path) -> None:
    loaded = read(tmp_path, "tts:\n  base_url: http://127.0.0.1:1/v1\n", {"XZ_LLM__API_KEY": "k"})
    assert isinstance(loaded.tree.tts, OpenAiTts)
    assert isinstance(loaded.tree.llm, OpenAiLlm)
    assert loaded.origins["tts.kind"] == "follows from tts.base_url"
    assert loaded.origins["llm.kind"] == "follows from llm.api_key"


def test_options_without_kind_belong_to_the_default_kind(tmp_path: Path) -> None:
    loaded = read(tmp_path, "llm:\n  threads: 3\ntts:\n  latin:\n    speed: 1.2\n")
    assert loaded.tree.llm == LlamaCppLlm(threads=3)
    assert loaded.origins["tts.latin.speed"] == "config.yaml line 5"


def test_another_kind_from_a_later_source_forgets_the_options_of_the_former(tmp_path: Path) -> None:
    text = "llm:\n  kind: llama_cpp\n  threads: 4\n"
    loaded = read(tmp_path, text, {"XZ_LLM__KIND": "openai", "XZ_LLM__MODEL": "m"})
    assert loaded.tree.llm == OpenAiLlm(model="m")
    assert read(tmp_path, text, {"XZ_LLM__KIND": "llama_cpp"}).tree.llm == LlamaCppLlm(threads=4)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution (as pip would lay it down) that brings an LLM and a VAD."""
    info = tmp_path / "site" / "acme_voice-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-voice\nVersion: 1.0\n", encoding="utf-8")
    entry_points = "[xiaozhi_bridge.llm]\nacme = acme:build\n[xiaozhi_bridge.vad]\nacme = acme:build_vad\n"
    (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    return tmp_path


def test_a_third_party_kind_takes_free_options(plugin: Path) -> None:
    environ = {
        "XZ_LLM__DEPTH": "3",
        "XZ_LLM__API_KEY": "sk-acme",
        "XZ_VAD__KIND": "acme",
        "XZ_VAD__SILENCE_MS": "700",
        "XZ_VAD__MODE": "hard",
    }
    loaded = read(plugin, "llm:\n  kind: acme\n  region: moon\n", environ)
    llm: object = loaded.tree.llm
    assert isinstance(llm, PluginConfig)
    assert llm.options() == {"region": "moon", "depth": 3, "api_key": "sk-acme"}
    vad: object = loaded.tree.vad
    assert isinstance(vad, PluginVad)
    assert (vad.silence_ms, vad.options()) == (700, {"mode": "hard"})
    assert loaded.origins["llm.region"] == "config.yaml line 3"
    assert loaded.dump()["llm"] == {"kind": "acme", "region": "moon", "depth": 3, "api_key": MASK}


def test_a_kind_that_nobody_brings(plugin: Path) -> None:
    (line,) = problems(plugin, "llm: {kind: acne, x: 1}")
    assert line == (
        'llm.kind: "acne" is not known (config.yaml line 1); one of llama_cpp, openai, acme, '
        "or the name of an installed plug-in (entry point group xiaozhi_bridge.llm); did you mean acme?"
    )


# -- errors ------------------------------------------------------------------------------------------------------------
def test_all_problems_at_once_one_line_each(tmp_path: Path) -> None:
    text = "mqtt:\n  prot: 3\n  tls:\n    port: abc\nlog:\n  level: inof\nassistant:\n  name: 3\n"
    lines = problems(tmp_path, text, {"XZ_UDP__PORT": "70000", "XZ_MQT__PORT": "1"}, overrides={"audio.frame_ms": "30"})
    assert set(lines) == {
        "mqtt.prot: there is no such setting (config.yaml line 2); did you mean mqtt.port?",
        'mqtt.tls.port: "abc" is not allowed (config.yaml line 4); a whole number from 0 to 65535',
        'log.level: "inof" is not allowed (config.yaml line 6); one of debug, info, warning, error; did you mean info?',
        "assistant.name: 3 is not allowed (config.yaml line 8); text; put it in quotes",
        'udp.port: "70000" is not allowed (environment XZ_UDP__PORT); a whole number from 0 to 65535',
        "mqt.port: there is no such setting (environment XZ_MQT__PORT); did you mean mqtt.port (XZ_MQTT__PORT)?",
        'audio.frame_ms: "30" is not allowed (command line audio.frame_ms); one of 20, 40, 60',
    }


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("XZ_MQTT_PORT", "XZ_MQTT__PORT"),
        ("XZ_LOGLEVEL", "XZ_LOG__LEVEL"),
        ("XZ_LLM__BASEURL", "XZ_LLM__BASE_URL"),
        ("XZ_ENROLLMENT", "XZ_ENROLMENT"),
    ],
)
def test_unknown_variables_are_errors_with_the_nearest_name(tmp_path: Path, name: str, meant: str) -> None:
    (line,) = problems(tmp_path, environ={name: "1"})
    assert name in line
    assert meant in line


def test_a_variable_like_nothing_else_lists_what_there_is(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, environ={"XZ_QQQ": "1"})
    assert "there are http, mqtt," in line
    assert "XZ_CONFIG" in line


def test_an_option_of_another_kind_says_whose_it_is(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, "llm:\n  kind: openai\n  threads: 2\n")
    assert line == "llm.threads: there is no such setting for kind openai (config.yaml line 3); it belongs to llama_cpp"


def test_a_value_where_a_branch_belongs_and_the_other_way_round(tmp_path: Path) -> None:
    lines = problems(tmp_path, "mqtt: 1883\nudp:\n  port: {a: 1}\n")
    assert lines[0].startswith("mqtt: what is given is not allowed (config.yaml line 1); a branch with host, port")
    assert lines[1].startswith("udp.port: {'a': 1} is not allowed (config.yaml line 3); a whole number")
    (line, *_) = problems(tmp_path, overrides={"mqtt": "x", "mqtt.port": "1"})
    assert "both as a value and as a branch" in line


def test_items_of_a_list_are_named(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, "intent:\n  languages: [en, 3]\n")
    assert line == "intent.languages.1: 3 is not allowed (config.yaml line 2); a list of text; put it in quotes"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mqtt:\n  port: [1,\n", "config.yaml line 3, column 1: this is not YAML"),
        ("mqtt:\n\tport: 1\n", "config.yaml line 2, column 1: this is not YAML"),
        ("a: 1\n b: 2\n", "config.yaml line 2, column 3: this is not YAML"),
        ("a: !!python/object:x 1\n", "config.yaml line 1, column 4: this is not YAML"),
        ("a: 1\n---\nb: 2\n", "config.yaml line 2, column 1: this is not YAML"),
        ("a: 1\nb: \x07\n", "config.yaml line 2, column 4: this is not YAML"),
        ("d: 2020-99-99\n", "config.yaml: this is not YAML"),
        ("- mqtt\n", "config.yaml line 1: settings are expected (name: value), not a list"),
        ("mqtt\n", "config.yaml line 1: settings are expected (name: value), not a str"),
        ("1: 2\n", "config.yaml line 1: a setting's name is expected here"),
        ("on: 2\n", "config.yaml line 1: a setting's name is expected here"),
        ("mqtt: {port: 1}\nudp: {}\nmqtt: {port: 2}\n", "mqtt: given twice (config.yaml lines 1 and 3)"),
    ],
)
def test_files_that_are_no_settings(tmp_path: Path, text: str, says: str) -> None:
    (line,) = problems(tmp_path, text)
    assert line.startswith(says)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.yaml: there is no such file"):
        load(tmp_path / "absent.yaml", environ={}, directory=tmp_path)
    with pytest.raises(SettingsError, match="there is no such file"):
        load(environ={"XZ_CONFIG": str(tmp_path / "absent.yaml")}, directory=tmp_path)
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path, environ={}, directory=tmp_path)
    (tmp_path / "config.yaml").write_bytes(b"a: \xff\xfe\xff")
    with pytest.raises(SettingsError, match="cannot be read"):
        load(environ={}, directory=tmp_path)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / ".env").write_bytes(b"XZ_A=\xff")
    with pytest.raises(SettingsError, match=r"\.env: the file cannot be read"):
        load(environ={}, directory=tmp_path)


# -- secrets -----------------------------------------------------------------------------------------------------------
def test_secrets_are_never_shown(tmp_path: Path) -> None:
    secret = "hunter2hunter2"
    text = f"admin:\n  token: [{secret}]\nllm:\n  kind: openai\n  api_kee: {secret}\n  model: [1]\n"
    environ = {"XZ_ADMIN": secret, "XZ_TTS__API_KEYS": secret, "XZ_ASR": secret}
    assert not [line for line in problems(tmp_path, text, environ) if secret in line]
    loaded = read(tmp_path, "", {"XZ_ADMIN__TOKEN": secret, "XZ_LLM__API_KEY": secret, "XZ_LLM__BASE_URL": f"http://me:{secret}@h/v1"})
    assert secret not in repr(loaded)[: repr(loaded).find("base_url")]
    assert secret not in str(loaded.dump())
    assert loaded.dump()["admin"]["token"] == MASK
    assert loaded.dump()["llm"]["base_url"] == f"http://{MASK}@h/v1"
    assert SettingsTree().admin.token.get_secret_value() == load(environ={}, directory=tmp_path / "no").dump()["admin"]["token"] == ""


def test_an_error_does_not_repeat_control_characters_or_endless_values(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, environ={"XZ_LOG__LEVEL": "\x1b[31m" + "x" * 500})
    assert "\x1b" not in line
    assert len(line) < 250


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["mqtt", "tls", "port", "llm", "kind", "latin", "log", "x", ""]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_any_yaml_is_settings_or_a_settings_error(tmp_path: Path, value: Any) -> None:
    lines: tuple[str, ...] = ("fine",)
    try:
        read(tmp_path, yaml.safe_dump(value, allow_unicode=True))
    except SettingsError as error:
        lines = error.problems
    assert lines
    assert all(line and "\n" not in line for line in lines)


def test_an_alias_that_holds_itself_is_an_error(tmp_path: Path) -> None:
    assert problems(tmp_path, "mqtt: &a {tls: *a, x: 1}\n")


# -- the documents -----------------------------------------------------------------------------------------------------
EXAMPLE = ROOT / "config.example.yaml"


def uncommented(text: str) -> str:
    """Every setting's line without its #; prose (# and a space) stays a comment."""
    return re.sub(r"^(\s*)#(?=[a-z])", r"\1", text, flags=re.MULTILINE)


def test_the_example_loads_as_it_is_and_with_every_comment_removed(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert read(tmp_path, text).tree == SettingsTree()
    loaded = read(tmp_path, uncommented(text))
    assert loaded.tree == SettingsTree()
    assert {path for path, origin in loaded.origins.items() if origin == "default"} == set()


def test_the_example_shows_every_other_kind_ready_to_use(tmp_path: Path) -> None:
    """Each "Instead" block, uncommented in a copy of the file, gives that kind with its defaults."""
    text = EXAMPLE.read_text(encoding="utf-8")
    seen: set[str] = set()
    for found in re.finditer(r"^  # Instead:\n((?:  #   .*\n)+)", text, flags=re.MULTILINE):
        role = re.findall(r"^(\w+):$", text[: found.start()], flags=re.MULTILINE)[-1]
        block = found[1].replace("  #   ", "  ")
        tree = read(tmp_path, text.replace(found[0], block)).tree
        config = getattr(tree, role)
        assert config == type(config)()
        assert set(re.findall(r"^  (\w+):", block, flags=re.MULTILINE)) == set(type(config).model_fields)
        seen.add(f"{role} {config.kind}")
    assert seen == {f"{role} {kind}" for role in schema.ROLES for kind in schema.kinds_of(role)[1:]}


@pytest.mark.parametrize(("path", "made"), [("config.example.yaml", reference.example_yaml), ("docs/settings.md", reference.markdown)])
def test_the_committed_documents_follow_from_the_tree(path: str, made: Any) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == made(), "run `make docs`"


def test_names_that_hold_secrets() -> None:
    secret = ["api_key", "apiKey", "token", "password", "Authorization", "client_secret", "nonce", "x-api-key"]
    assert all(map(schema.is_secret_name, secret))
    assert not any(map(schema.is_secret_name, ["max_tokens", "context_tokens", "keepalive_s", "monkey", "device", "text"]))


@pytest.mark.parametrize("host", ["http://192.0.2.7", "192.0.2.7:1883", "fd00::7"])
def test_addresses_that_devices_cannot_use_are_told_at_the_start(host: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"advertise.host: .* name or IPv4 address, without a scheme or port"):
        load(environ={}, overrides={"advertise.host": host}, directory=tmp_path)
