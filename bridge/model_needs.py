"""Which models the settings need."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import BaseModel

from settings.model import SettingsTree
from settings.schema import ROLES

# Kinds that use models which no setting names.
_IMPLIED = {"silero": ("silero-vad",), "kokoro": ("kokoro-voices",)}


def needed_models(tree: SettingsTree, known: Collection[str]) -> list[str]:
    """The names of the model table (``known``) that the chosen providers use, in the order of the roles."""
    names: dict[str, None] = {}
    waiting: list[BaseModel] = [getattr(tree, role) for role in ROLES]
    while waiting:
        config = waiting.pop(0)
        values = [getattr(config, name) for name in type(config).model_fields]
        names |= dict.fromkeys(_IMPLIED.get(getattr(config, "kind", ""), ()))
        names |= dict.fromkeys(value for value in values if isinstance(value, str))
        waiting = [value for value in values if isinstance(value, BaseModel)] + waiting
    return [name for name in names if name in known]
