"""No intents: every sentence goes to the language model."""

from __future__ import annotations

from providers.base import Intent, IntentRecognizer
from providers.models import ModelStore
from settings.providers import NoIntents


def build(config: NoIntents, *, store: ModelStore) -> IntentRecognizer:
    del config, store
    return NoRecognizer()


class NoRecognizer:
    """See :class:`providers.base.IntentRecognizer`."""

    async def warm(self) -> None:
        """Nothing to load."""

    async def recognize(self, text: str, *, language: str | None = None) -> Intent | None:
        """Always None."""
        del text, language
        return None

    async def aclose(self) -> None:
        """Nothing to free."""
