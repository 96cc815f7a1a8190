"""The system prompt."""

from __future__ import annotations

from datetime import datetime, tzinfo

from settings.model import Assistant


def system_prompt(assistant: Assistant, timezone: tzinfo | None) -> str:
    """What the model is told about itself and the day; the same text all day, so that an evaluated prefix stays good."""
    today = f"{datetime.now(timezone):%A, %d %B %Y}"
    return f"{assistant.prompt.replace('{name}', assistant.name)} Today is {today}."
