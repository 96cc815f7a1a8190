"""Where settings come from: the YAML file, ``.env``, the environment, the command line. One source each.

A source is a pydantic-settings source that yields a nested dict and remembers for every leaf where it stood, so that an
error can name the line or the variable. Nothing is dropped silently: what no setting answers to is found by the loader.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_origin

import yaml
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from settings import schema

PREFIX = "XZ_"
RESERVED = frozenset({"XZ_CONFIG"})
"""Variables with the prefix that are no settings: XZ_CONFIG is the path of the YAML file."""

_DEEPEST = 16


class SettingsError(Exception):
    """Settings that cannot be used. One line a problem, all problems at once; secrets are never shown."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Source(PydanticBaseSettingsSource):
    """Nested values, and for each leaf the words that say where it stood (``config.yaml line 12``)."""

    def __init__(self) -> None:
        super().__init__(BaseSettings)
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.problems: list[str] = []

    def __call__(self) -> dict[str, Any]:
        return self.values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: the values are given whole by calling the source."""
        return self.values.get(field_name), field_name, False

    def put(self, path: str, value: Any, origin: str) -> None:
        """Lay a value at a path. A path through a value that is no branch is a problem."""
        *branches, leaf = path.split(".")
        here = self.values
        for branch in branches:
            here = here.setdefault(branch, {})
            if not isinstance(here, dict):
                self.problems.append(f"{path}: {branch!r} is given both as a value and as a branch ({origin})")
                return
        here[leaf] = value
        self.origins[path] = origin


class YamlSource(Source):
    """A YAML file. An empty file or branch is fine; a key given twice, or that is no text, is a problem.

    Raises SettingsError when the file cannot be read or is not YAML, with line and column.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._name = path.name
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise SettingsError(
                f"{path}: there is no such file; give the path of a YAML file, or leave --config and XZ_CONFIG away"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: the file cannot be read: {error}") from error
        node, data = self._parse(text)
        if data is None:
            return
        if not isinstance(data, dict):
            raise SettingsError(f"{self._name} line 1: settings are expected (name: value), not a {type(data).__name__}")
        self._index(node, "", 0)
        if not self.problems:
            self.values = _without_empty_branches(data)

    def _parse(self, text: str) -> tuple[yaml.Node | None, Any]:
        """The document as nodes (which know their lines) and as values."""
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            return node, None if node is None else loader.construct_document(node)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            raise SettingsError(f"{self._name}{where}: this is not YAML: {error.problem or error.context}") from error
        except yaml.reader.ReaderError as error:
            before = text[: error.position].split("\n")
            raise SettingsError(
                f"{self._name} line {len(before)}, column {len(before[-1]) + 1}: this is not YAML: a control character"
            ) from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise SettingsError(f"{self._name}: this is not YAML: {' '.join(str(error).split())}") from error

    def _index(self, node: yaml.Node | None, prefix: str, depth: int) -> None:
        """Note the line of every key."""
        if not isinstance(node, yaml.MappingNode) or depth > _DEEPEST:
            return
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                if getattr(key, "tag", "") != "tag:yaml.org,2002:merge":
                    self.problems.append(f"{self._name} line {line}: a setting's name is expected here; put it in quotes if it is one")
                continue
            if key.value in seen:
                self.problems.append(f"{prefix}{key.value}: given twice ({self._name} lines {seen[key.value]} and {line})")
            seen[key.value] = line
            self.origins[prefix + key.value] = f"{self._name} line {line}"
            self._index(value, f"{prefix}{key.value}.", depth + 1)


class TextSource(Source):
    """Settings given as text under their paths: ``--set a.b=value``, or variables ``XZ_A__B``.

    Text becomes what the setting takes: lists are written ``["en","de"]`` or ``en,de``, empty text is "not set" where a
    setting may be empty. A branch takes a JSON object.
    """

    def __init__(self, pairs: Iterator[tuple[str, Any, str]]) -> None:
        super().__init__()
        for path, value, origin in pairs:
            self.put(path, from_text(path, value) if isinstance(value, str) else value, origin)


def environment(variables: Mapping[str, str | None], *, where: str) -> TextSource:
    """The variables ``XZ_A__B`` of a mapping; others are not looked at. ``where`` is ``environment`` or ``.env``."""
    return TextSource(
        (name.removeprefix(PREFIX).lower().replace("__", "."), value or "", f"{where} {name}")
        for name, value in sorted(variables.items())
        if name.startswith(PREFIX) and name not in RESERVED
    )


def explicit(overrides: Mapping[str, Any]) -> TextSource:
    """What the command line says; ``overrides`` maps paths to text or to values of the right type."""
    return TextSource((path, value, f"command line {path}") for path, value in overrides.items())


def from_text(path: str, text: str) -> Any:
    """The value that a text means at a path; the text itself where nothing else fits (validation says the rest)."""
    fields = schema.find(path)
    if not fields:
        return _scalar(text)
    if schema.is_branch(path):
        return _json(text)
    annotation = fields[0].annotation
    if text == "" and NoneType in schema.members(annotation):
        return None
    if any(get_origin(member) in (tuple, list) for member in schema.members(annotation)):
        return _json(text) if text.lstrip().startswith("[") else [part.strip() for part in text.split(",") if part.strip()]
    return next((value for value in schema.choices(fields[0]) if str(value) == text), text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _scalar(text: str) -> Any:
    """The value of an option that no setting describes (a plug-in's): as YAML would read it."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _without_empty_branches(data: dict[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Leave out branches whose every line is commented out: they read as null, and mean "as it is by default"."""
    out: dict[str, Any] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        deeper = isinstance(value, dict) and depth < _DEEPEST  # a YAML alias may hold itself
        inner = _without_empty_branches(value, f"{path}.", depth + 1) if deeper else value
        if inner not in (None, {}) or not schema.is_branch(path):
            out[key] = inner
    return out
