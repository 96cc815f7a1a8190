"""examples/echo_provider, found as an installed package is: by its entry point."""

from __future__ import annotations

import tomllib
from contextlib import aclosing
from pathlib import Path

import pytest

from providers.base import Llm, Message, ProviderRejected, TextDelta
from providers.factory import build_llm, kinds
from providers.models import ModelStore
from settings.load import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "echo_provider"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What installing it leaves behind: its metadata, made from its pyproject.toml, and its module on the path."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(groups))
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def built(directory: Path, options: str = "") -> Llm:
    (directory / "config.yaml").write_text(f"llm:\n  kind: echo\n{options}", encoding="utf-8")
    loaded = load(environ={}, directory=directory)
    return build_llm(loaded.tree.llm, store=ModelStore(directory / "models", offline=True))


async def test_it_answers(installed: Path) -> None:
    assert "echo" in kinds("llm")
    llm = built(installed, '  prefix: "You said: "\n  words_per_s: 1000\n')
    await llm.warm()
    async with aclosing(llm.chat([Message("system", "Be brief."), Message("user", "one two")])) as events:
        pieces = [event.text async for event in events if isinstance(event, TextDelta)]
    assert pieces == ["You ", "said: ", "one ", "two "]
    await llm.aclose()


async def test_it_refuses_in_a_sentence(installed: Path) -> None:
    with pytest.raises(ProviderRejected, match="nothing to repeat"):
        async with aclosing(built(installed).chat([])) as events:
            await anext(events)


@pytest.mark.parametrize("option", ["words_per_s: 0", "wrods_per_s: 3"])
def test_wrong_options_are_told(installed: Path, option: str) -> None:
    with pytest.raises(ProviderRejected, match=r"llm.kind 'echo' does not take its options: .*(words_per_s|wrods_per_s)"):
        built(installed, f"  {option}\n")
