"""Kinds become providers. The plug-in is a real installed distribution: a folder with metadata on the path."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, get_args

import pytest

from providers import factory
from providers.base import ProviderRejected, ProviderUnavailable
from providers.llm.llama_cpp import LlamaCpp
from providers.llm.openai import OpenAiChat
from providers.models import ModelStore
from settings import providers as settings
from settings.providers import LlamaCppLlm, NoIntents, OpenAiLlm, PluginConfig

PLUGIN = """
class Parrot:
    def __init__(self, *, words):
        self.words = words
"""
ENTRY_POINTS = """
[xiaozhi_bridge.llm]
parrot = parrot_plugin:Parrot
gone = parrot_plugin:Gone
nowhere = no_such_module:Gone
openai = parrot_plugin:Parrot
"""


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path, offline=True)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parrot_plugin.py").write_text(PLUGIN)
    metadata = tmp_path / "parrot_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()


def test_built_in_kinds(store: ModelStore) -> None:
    assert isinstance(factory.build_llm(LlamaCppLlm(), store=store), LlamaCpp)
    assert isinstance(factory.build_llm(OpenAiLlm(), store=store), OpenAiChat)


@pytest.mark.usefixtures("plugin")
def test_plugin(store: ModelStore) -> None:
    made = factory.build("llm", PluginConfig.model_validate({"kind": "parrot", "words": ["hi"]}), store=store)
    assert made.words == ["hi"]
    assert factory.kinds("llm") == ["llama_cpp", "openai", "gone", "nowhere", "parrot"]


@pytest.mark.usefixtures("plugin")
def test_plugin_cannot_replace_a_built_in_kind(store: ModelStore) -> None:
    assert isinstance(factory.build_llm(OpenAiLlm(), store=store), OpenAiChat)


@pytest.mark.usefixtures("plugin")
def test_plugin_that_refuses_its_options(store: ModelStore) -> None:
    with pytest.raises(ProviderRejected, match="does not take its options"):
        factory.build_llm(PluginConfig.model_validate({"kind": "parrot", "wrods": []}), store=store)


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("kind", ["gone", "nowhere"])
def test_plugin_that_cannot_be_loaded(store: ModelStore, kind: str) -> None:
    with pytest.raises(ProviderUnavailable, match="cannot be loaded"):
        factory.build_llm(PluginConfig(kind=kind), store=store)


def test_unknown_kind_names_the_nearest(store: ModelStore) -> None:
    with pytest.raises(ProviderRejected, match=r"'opnai' is not known \(did you mean openai\?\); there are llama_cpp, openai"):
        factory.build_llm(PluginConfig(kind="opnai"), store=store)


def test_part_that_is_not_installed(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(factory.BUILT_IN["llm"], "exotic", "no_such_package.llm")
    with pytest.raises(ProviderUnavailable, match="needs the package no_such_package"):
        factory.build_llm(PluginConfig(kind="exotic"), store=store)


async def test_no_intents(store: ModelStore) -> None:
    recognizer = factory.build_intents(NoIntents(), store=store)
    await recognizer.warm()
    assert await recognizer.recognize("turn on the light", language="en") is None
    await recognizer.aclose()


def configured_kinds(union: Any) -> set[str]:
    """The ``kind`` of each configuration class in a union of the settings."""
    members = get_args(get_args(union)[0]) if get_args(union) else (union,)
    return {member.model_fields["kind"].default for member in members}


@pytest.mark.parametrize(
    ("role", "union"),
    [
        ("vad", settings.VadConfig),
        ("asr", settings.AsrConfig),
        ("llm", settings.LlmConfig),
        ("tts", settings.TtsConfig),
        ("intent", settings.IntentConfig),
    ],
)
def test_every_kind_of_the_settings_has_a_module(role: factory.Role, union: Any) -> None:
    assert configured_kinds(union) == set(factory.BUILT_IN[role])
