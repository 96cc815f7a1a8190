"""The documents that follow from the settings tree: ``config.example.yaml`` and ``docs/settings.md``.

``xiaozhi-bridge config example`` and ``config reference`` print them; a test compares the committed files, so they cannot
lag behind the tree.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from settings import schema
from settings.model import SettingsTree

_WIDTH = 118

_EXAMPLE_HEAD = """\
# Settings of xiaozhi-bridge: every one, with its default. Nothing here is needed: without a file the defaults run.
#
# Copy to config.yaml and take the # away from the lines you change ("#port: 1883" -> "port: 1883").
# The same settings as environment variables: XZ_MQTT__PORT=1884 is mqtt.port; on the command line: --set mqtt.port=1884.
# Later wins: default < this file < .env < environment < command line. `xiaozhi-bridge config show` tells what is in
# force and where it comes from. Keep keys and passwords out of this file when others can read it: use .env.
"""

_MARKDOWN_HEAD = """\
# Settings

Nothing has to be set: the defaults run offline on a fresh machine. To change something, use any of these; later wins:

1. the default
2. a YAML file: `--config FILE`, or the path in `XZ_CONFIG`, or `config.yaml` in the working directory
   (`config.example.yaml` lists everything)
3. `.env` in the working directory
4. the environment: `XZ_` and the path in capitals, two underscores for each dot: `XZ_MQTT__TLS__PORT=8883`
5. the command line: `--set mqtt.tls.port=8883`, or the options for the common ones

Lists are written `["en", "de"]` or `en,de`. Empty text means "not set" where a setting may be empty.

`xiaozhi-bridge config check` reads everything and reports all mistakes at once, with the line or the variable each stands
in and the nearest right spelling. `xiaozhi-bridge config show` prints what is in force and where each value comes from;
secrets are masked. A name that is no setting is an error, in the file and in the environment
(`XZ_CONFIG` is the only variable with the prefix that is no setting).

A port that you set and that is taken is an error; a default port that is taken moves to the next free one.

## Providers

`vad`, `asr`, `llm`, `tts` and `intent` each hold one provider; `kind` selects which, and the other options depend on it.
`base_url` or `api_key` without a `kind` means `kind: openai`: any OpenAI-compatible endpoint (Ollama, vLLM, LM Studio,
llama.cpp's server, DeepSeek, Qwen, Groq and others).

```yaml
llm:
  kind: openai
  base_url: http://127.0.0.1:11434/v1
  model: qwen2.5:7b
```

A `kind` that is not built in is looked up among the entry points `xiaozhi_bridge.vad`, `.asr`, `.llm`, `.tts` and
`.intent` of installed packages; its options are passed on as they are. When a later source names another `kind`, the
options that earlier sources gave for theirs are left out.

## All settings
"""


def example_yaml() -> str:
    """``config.example.yaml``: every setting as a commented line with its default, other provider kinds below theirs."""
    return _EXAMPLE_HEAD + "".join(f"{line}\n".rstrip(" ") for line in _yaml_lines(SettingsTree(), "", top=True))


def markdown() -> str:
    """``docs/settings.md``: the rules, and one table a branch."""
    lines: list[str] = []
    top = [(name, info) for name, info in SettingsTree.model_fields.items() if not schema.models_in(info.annotation)]
    lines += ["", *_table("", top)]
    for name, info in SettingsTree.model_fields.items():
        for branch in schema.models_in(info.annotation):
            lines += _section(name, branch, many=len(schema.models_in(info.annotation)) > 1)
    return _MARKDOWN_HEAD + "\n".join(lines) + "\n"


# -- YAML --------------------------------------------------------------------------------------------------------------
def _yaml_lines(model: BaseModel, indent: str, *, top: bool = False) -> Iterator[str]:
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if top:
            yield ""
        if isinstance(value, BaseModel):
            yield from _prose(info.description or _own_docstring(type(value)), indent)
            yield f"{indent}{name}:"
            yield from _yaml_lines(value, indent + "  ")
            for other in schema.models_in(info.annotation):
                if other is not type(value):
                    yield f"{indent}  # Instead:"
                    lines = (line.strip() for line in _yaml_lines(other(), ""))
                    yield from (f"{indent}  #   {line[1:]}" for line in lines if not line.startswith("# "))
        else:
            yield from _prose(_remark(info), indent)
            yield f"{indent}#{name}: {_yaml_value(value)}"


def _prose(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False)


def _own_docstring(branch: type[BaseModel]) -> str:
    """What a branch says of itself; nothing when it only inherits a docstring."""
    inherited = {parent.__doc__ for parent in branch.__mro__[1:]}
    return "" if branch.__doc__ in inherited else inspect.cleandoc(branch.__doc__ or "")


def _remark(info: FieldInfo) -> str:
    """What a person needs besides the name: the meaning and, where it is not obvious, what is allowed."""
    hint = schema.allowed(info) if len(schema.choices(info)) > 1 and not info.description else schema.limits(info)
    return f"{info.description} ({hint})" if info.description and hint else info.description or hint


def _yaml_value(value: Any) -> str:
    if isinstance(value, SecretStr):
        return '""'
    if isinstance(value, Path):
        return str(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


# -- Markdown ----------------------------------------------------------------------------------------------------------
def _section(path: str, branch: type[BaseModel], *, many: bool) -> Iterator[str]:
    kind = branch.model_fields["kind"].default if "kind" in branch.model_fields and many else ""
    yield from ("", f"### `{path}`" + (f", kind `{kind}`" if kind else ""), "")
    if text := _own_docstring(branch):
        yield from (*textwrap.wrap(text, _WIDTH), "")
    yield from _table(path, [(name, info) for name, info in branch.model_fields.items() if not schema.models_in(info.annotation)])
    for name, info in branch.model_fields.items():
        for below in schema.models_in(info.annotation):
            yield from _section(f"{path}.{name}", below, many=False)


def _table(path: str, fields: list[tuple[str, FieldInfo]]) -> Iterator[str]:
    yield from ("| setting | default | takes | meaning |", "|---|---|---|---|")
    for name, info in fields:
        default = schema.default_of(info)
        shown = "" if default is None or isinstance(default, SecretStr) else f"`{_yaml_value(default)}`"
        cells = (f"`{path}.{name}`" if path else f"`{name}`", shown, schema.allowed(info), info.description or "")
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
