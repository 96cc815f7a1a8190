"""Read the settings: defaults < YAML file < ``.env`` < environment ``XZ_A__B`` < command line.

``load()`` gives the validated tree and the origin of each value, or raises :class:`SettingsError` with every problem
at once. Provider branches (``asr``, ``llm``, ...) are told apart by ``kind``; a ``base_url`` or ``api_key`` without a
``kind`` means ``openai``. When a later source names another kind, the options that earlier sources gave for theirs
are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from settings import schema
from settings.model import SettingsTree
from settings.providers import PluginConfig, PluginVad
from settings.sources import PREFIX, RESERVED, SettingsError, Source, YamlSource, environment, explicit

__all__ = ["MASK", "Loaded", "SettingsError", "load"]

MASK = "********"
ENTRY_POINT_GROUP = "xiaozhi_bridge"
DEFAULT_FILE = Path("config.yaml")
_URL_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Loaded:
    """The tree, and for every leaf where its value comes from: ``default``, ``config.yaml line 12``, ``environment XZ_...``."""

    tree: SettingsTree
    origins: dict[str, str] = field(default_factory=dict)
    file: Path | None = None

    def was_set(self, path: str) -> bool:
        """True when the setting, or anything below that branch, was given by somebody."""
        return any(origin != "default" for known, origin in self.origins.items() if known == path or known.startswith(f"{path}."))

    def dump(self) -> dict[str, Any]:
        """The tree as plain JSON values, secrets masked: fit to be shown."""
        return _masked(self.tree)


def load(
    path: str | Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Any] | None = None,
    directory: Path | None = None,
) -> Loaded:
    """Read and validate the settings.

    ``path`` is the YAML file (else ``XZ_CONFIG``, else ``config.yaml`` in ``directory`` when it is there); ``overrides``
    maps paths (``mqtt.port``) to text or values; ``directory`` (default: the working one) is also where ``.env`` is looked for.
    Raises SettingsError.
    """
    directory = directory or Path()
    dotenv = _read_dotenv(directory / ".env")
    file = _file(path, environ.get("XZ_CONFIG") or dotenv.get("XZ_CONFIG"), directory)
    layers: list[Source] = [YamlSource(file)] if file else []
    layers += [environment(dotenv, where=".env"), environment(environ, where="environment"), explicit(overrides or {})]
    problems = [problem for layer in layers for problem in layer.problems]
    _drop_other_kinds(layers)
    origins = {key: origin for layer in layers for key, origin in layer.origins.items()}
    values = _merge(layers)
    plugins = _take_providers(values, origins, problems)
    tree: SettingsTree | None = None
    try:
        tree = SettingsTree.model_validate(values)
    except ValidationError as error:
        problems += [line for one in error.errors(include_url=False) for line in _sentences(one, values, origins)]
    if problems or tree is None:
        raise SettingsError(*dict.fromkeys(problems))
    tree = tree.model_copy(update=plugins)
    return Loaded(tree=tree, origins={leaf: origins.get(leaf, "default") for leaf, _ in schema.leaves(tree)}, file=file)


# -- gathering ---------------------------------------------------------------------------------------------------------
def _file(path: str | Path | None, from_environment: str | None, directory: Path) -> Path | None:
    """The YAML file to read: one that is named must be there, the default one may be."""
    if named := path or from_environment:
        return Path(named)
    return directory / DEFAULT_FILE if (directory / DEFAULT_FILE).is_file() else None


def _read_dotenv(path: Path) -> dict[str, str | None]:
    try:
        return dict(dotenv_values(path, encoding="utf-8")) if path.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: the file cannot be read: {error}") from error


def _merge(layers: Sequence[Source]) -> dict[str, Any]:
    """Lay the sources over one another, the last one on top."""

    class Layers(BaseSettings, extra="allow"):
        @classmethod
        def settings_customise_sources(cls, *_sources: Any, **_named: Any) -> tuple[Source, ...]:
            return tuple(reversed(layers))

    return dict(Layers().model_extra or {})


def _drop_other_kinds(layers: Sequence[Source]) -> None:
    """Where a later source names another kind, forget what earlier sources said for theirs."""
    for role in schema.ROLES:
        named = [(i, layer.values[role].get("kind")) for i, layer in enumerate(layers) if isinstance(layer.values.get(role), dict)]
        named = [(i, kind) for i, kind in named if kind is not None]
        for i, kind in named:
            if kind != named[-1][1]:
                for layer in layers[: i + 1]:
                    layer.values.pop(role, None)
                    layer.origins = {key: origin for key, origin in layer.origins.items() if key.partition(".")[0] != role}


# -- providers ---------------------------------------------------------------------------------------------------------
def _take_providers(values: dict[str, Any], origins: dict[str, str], problems: list[str]) -> dict[str, PluginConfig]:
    """Complete the kinds in ``values``; take out and return the branches that belong to plug-ins."""
    plugins: dict[str, PluginConfig] = {}
    for role in schema.ROLES:
        branch = values.get(role)
        if not isinstance(branch, dict) or not branch:
            continue
        built_in = schema.kinds_of(role)
        if "kind" not in branch:
            hint = next((name for name in ("base_url", "api_key") if name in branch), None)
            branch["kind"] = "openai" if hint and "openai" in built_in else built_in[0]
            if branch["kind"] != built_in[0]:
                origins[f"{role}.kind"] = f"follows from {role}.{hint}"
        kind = branch["kind"]
        if kind in built_in:
            continue
        del values[role]
        installed = sorted(point.name for point in entry_points(group=f"{ENTRY_POINT_GROUP}.{role}"))
        if kind not in installed:
            problems.append(_unknown_kind(role, kind, built_in + installed, origins))
            continue
        try:
            plugins[role] = (PluginVad if role == "vad" else PluginConfig).model_validate(branch)
        except ValidationError as error:
            problems += [line for one in error.errors(include_url=False) for line in _sentences(one, values, origins, prefix=(role,))]
    return plugins


def _unknown_kind(role: str, kind: Any, known: list[str], origins: dict[str, str]) -> str:
    nearest = schema.nearest(str(kind), known)
    question = f"; did you mean {nearest}?" if nearest else ""
    return (
        f"{role}.kind: {_shown(kind)} is not known{_origin(f'{role}.kind', origins)}; one of {', '.join(known)}, "
        f"or the name of an installed plug-in (entry point group {ENTRY_POINT_GROUP}.{role}){question}"
    )


# -- errors ------------------------------------------------------------------------------------------------------------
def _sentences(error: ErrorDetails, values: Mapping[str, Any], origins: Mapping[str, str], *, prefix: tuple[str, ...] = ()) -> list[str]:
    """The problem in words: the path, what was given and where, what is allowed, the nearest spelling."""
    location = [*prefix, *(str(part) for part in error["loc"])]
    if not prefix and len(location) > 1 and location[1] in _tags(location[0]):
        del location[1]  # pydantic puts the kind behind the name of a discriminated union
    path = ".".join(location)
    if error["type"] == "extra_forbidden":
        below = [known for known in origins if known.startswith(f"{path}.")]
        return [_unknown(one, values, origins) for one in ([path] if path in origins or not below else below)]
    return [_not_allowed(path, error, origins)]


def _tags(role: str) -> list[str]:
    kinds = schema.kinds_of(role) if role in schema.ROLES else []
    return kinds if len(kinds) > 1 else []


def _not_allowed(path: str, error: ErrorDetails, origins: Mapping[str, str]) -> str:
    setting = path
    while setting and not schema.find(setting):
        setting = setting.rpartition(".")[0]  # the item of a list
    fields = schema.find(setting)
    if not fields:
        return f"{path}: {error['msg']}{_origin(path, origins)}"
    hidden = schema.is_secret(path) or schema.is_branch(path)
    if error["type"] == "value_error" and not hidden:
        return f"{path}: {error['ctx']['error']}{_origin(path, origins)}"
    what = "what is given is not allowed" if hidden else f"{_shown(error['input'])} is not allowed"
    quotes = "; put it in quotes" if error["type"] == "string_type" and isinstance(error["input"], int | float) else ""
    nearest = None if hidden else schema.nearest(str(error["input"]), [str(value) for value in schema.choices(fields[0])])
    question = f"; did you mean {nearest}?" if nearest else ""
    return f"{path}: {what}{_origin(path, origins)}; {schema.allowed(fields[0])}{quotes}{question}"


def _unknown(path: str, values: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """A name that is no setting. Its value is not shown: it may be a misspelt secret."""
    origin = _origin(path, origins)
    role, branch = path.partition(".")[0], path.rpartition(".")[0]
    if schema.find(path):
        kind = (values.get(role) or {}).get("kind", "")
        return f"{path}: there is no such setting for kind {kind}{origin}; it belongs to {', '.join(schema.kinds_with(path))}"
    if near := schema.nearest_path(path):
        variable = f" ({PREFIX}{near.upper().replace('.', '__')})" if "XZ_" in origin else ""
        return f"{path}: there is no such setting{origin}; did you mean {near}{variable}?"
    known = schema.names_below(branch) or schema.names_below("")
    also = f" ({', '.join(sorted(RESERVED))} is no setting, but allowed)" if "XZ_" in origin else ""
    return f"{path}: there is no such setting{origin}; there are {', '.join(known)}{also}"


def _origin(path: str, origins: Mapping[str, str]) -> str:
    """Where a value stood, in brackets; for a part of a value, where the whole stood."""
    while path:
        if path in origins:
            return f" ({origins[path]})"
        if below := [origin for known, origin in origins.items() if known.startswith(f"{path}.")]:
            return f" ({below[0]})"
        path = path.rpartition(".")[0]
    return ""


def _shown(value: Any) -> str:
    """A value as it may stand in an error: short, printable, without the user part of a URL."""
    if not isinstance(value, str):
        return "empty" if value is None else str(value).lower() if isinstance(value, bool) else str(value)[:_SHOWN_CHARACTERS]
    text = _URL_USER.sub(MASK, "".join(character if character.isprintable() else "?" for character in value))
    return f'"{text}"' if len(text) <= _SHOWN_CHARACTERS else f'"{text[: _SHOWN_CHARACTERS - 3]}..."'


# -- showing -----------------------------------------------------------------------------------------------------------
def _masked(model: BaseModel) -> dict[str, Any]:
    values = {name: getattr(model, name) for name in type(model).model_fields} | (model.model_extra or {})
    return {name: _masked_value(name, value) for name, value in values.items()}


def _masked_value(name: str, value: Any) -> Any:
    match value:
        case BaseModel():
            return _masked(value)
        case SecretStr():
            return MASK if value.get_secret_value() else ""
        case dict():
            return {str(key): _masked_value(str(key), item) for key, item in value.items()}
        case list() | tuple():
            return [_masked_value(name, item) for item in value]
        case str() | Path():
            return MASK if value and isinstance(value, str) and schema.is_secret_name(name) else _URL_USER.sub(MASK, str(value))
        case _:
            return value
