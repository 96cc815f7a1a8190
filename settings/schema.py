"""Questions about the settings tree's shape: what is at a path, what it takes, what is a secret, which name is nearest.

A path is written with dots (``mqtt.tls.port``). Below ``asr``, ``llm``, ``tts`` and the other roles the fields depend on
``kind``, so one path may answer with several fields.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from settings.model import SettingsTree

ROLES = ("vad", "asr", "llm", "tts", "intent")
"""Top-level branches that hold a provider; ``kind`` selects which."""

_SECRET_WORDS = frozenset({"key", "apikey", "password", "passwd", "token", "secret", "authorization", "nonce", "credential", "credentials"})
_BOUNDS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))


def is_secret_name(name: str) -> bool:
    """True when a key of this name holds a secret by its name alone, for options whose type is not known."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return not _SECRET_WORDS.isdisjoint(words)


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def models_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The branches that an annotation allows; empty for a leaf."""
    return tuple(member for member in members(annotation) if isinstance(member, type) and issubclass(member, BaseModel))


def find(path: str) -> list[FieldInfo]:
    """The fields that may stand at a path, one for each provider kind that has it; empty when there is none."""
    models: tuple[type[BaseModel], ...] = (SettingsTree,)
    found: list[FieldInfo] = []
    for key in path.split("."):
        found = [model.model_fields[key] for model in models if key in model.model_fields]
        models = tuple(branch for field in found for branch in models_in(field.annotation))
    return found


def is_branch(path: str) -> bool:
    return any(models_in(field.annotation) for field in find(path))


def names_below(path: str) -> list[str]:
    """The keys that are allowed below a branch, over all its kinds; the top level for an empty path."""
    models = (SettingsTree,) if not path else tuple(model for field in find(path) for model in models_in(field.annotation))
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def kinds_of(role: str) -> list[str]:
    """The built-in values of ``<role>.kind``, the default first."""
    return [model.model_fields["kind"].default for field in find(role) for model in models_in(field.annotation)]


def kinds_with(path: str) -> list[str]:
    """The kinds of a role that have the setting at this path."""
    role, _, rest = path.partition(".")
    branches = [model for field in find(role) for model in models_in(field.annotation)]
    return [model.model_fields["kind"].default for model in branches if rest.partition(".")[0] in model.model_fields]


def leaves(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (path, value) of a tree as it is."""
    values = {name: getattr(model, name) for name in type(model).model_fields} | (model.model_extra or {})
    for name, value in values.items():
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def all_paths(model: type[BaseModel] = SettingsTree, prefix: str = "") -> Iterator[str]:
    """Every leaf path of every kind; some come more than once."""
    for name, field in model.model_fields.items():
        branches = models_in(field.annotation)
        for branch in branches:
            yield from all_paths(branch, f"{prefix}{name}.")
        if not branches:
            yield f"{prefix}{name}"


def is_secret(path: str) -> bool:
    """True when a value at this path must never be shown."""
    return is_secret_name(path.rpartition(".")[2]) or any(SecretStr in members(field.annotation) for field in find(path))


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that is spelt most alike, or None when none is near."""
    found = difflib.get_close_matches(word, list(dict.fromkeys(candidates)), n=1, cutoff=0.6)
    return found[0] if found else None


def nearest_path(path: str) -> str | None:
    """The known path that a wrong one most likely means: a sibling, the same name elsewhere, or the whole path's nearest."""
    branch, _, name = path.rpartition(".")
    paths = list(dict.fromkeys(all_paths()))
    if confused := [known for known in paths if known.replace(".", "_") == path.replace(".", "_")]:
        return confused[0]
    if sibling := nearest(name, names_below(branch)):
        return f"{branch}.{sibling}" if branch else sibling
    same_name = [known for known in paths if known.rpartition(".")[2] == name]
    return same_name[0] if len(same_name) == 1 else nearest(path, paths)


def allowed(field: FieldInfo) -> str:
    """What a field takes, in words: ``one of debug, info``, ``a whole number from 0 to 65535``."""
    if field.description and any(getattr(rule, "pattern", None) for rule in field.metadata):
        return f"text: {field.description}"  # nobody wants to read a regular expression
    parts = [_type_in_words(member) for member in members(field.annotation) if member is not NoneType]
    empty = ", or empty" if NoneType in members(field.annotation) else ""
    return " ".join([", ".join(parts), limits(field)]).rstrip() + empty


def limits(field: FieldInfo) -> str:
    """The bounds of a number: ``from 0 to 65535``, ``above 0``; empty when it has none."""
    bound = {name: f"{getattr(rule, name)}" for name, _ in _BOUNDS for rule in field.metadata if hasattr(rule, name)}
    if set(bound) == {"ge", "le"}:
        return f"from {bound['ge']} to {bound['le']}"
    return ", ".join(f"{words} {bound[name]}" for name, words in _BOUNDS if name in bound)


def choices(field: FieldInfo) -> list[Any]:
    """The values of a field that takes only some; empty for any other."""
    return [value for member in members(field.annotation) if get_origin(member) is Literal for value in get_args(member)]


def default_of(field: FieldInfo) -> Any:
    """The default; None when there is none."""
    value = field.get_default(call_default_factory=True, validated_data={})
    return None if value is PydanticUndefined else value


def _type_in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(kind))
    if get_origin(kind) in (tuple, list, set, frozenset):
        return f"a list of {_type_in_words(get_args(kind)[0])}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", SecretStr: "text", Path: "a path"}
    return words.get(kind, "a branch with " + ", ".join(kind.model_fields) if hasattr(kind, "model_fields") else "a value")
