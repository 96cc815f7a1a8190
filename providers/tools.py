"""What a tool answers (P)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The outcome of a tool call and what to do with it.

    ``speak``: say the text as it is; ``ask_model``: give it to the model, which answers the user; ``silent``: nothing is said;
    ``end``: say the text and end the conversation.
    """

    text: str
    next: Literal["speak", "ask_model", "silent", "end"] = "ask_model"
    is_error: bool = False
