"""The word between the doctor and the server (pure).

A stock device says ``listen detect`` with its wake word. When the text is this one the session answers with one fixed
spoken sentence, whatever else it hears: speech can only be sent once audio has been believed, so hearing it proves both
ways. Any device that is let in may say it; all it gets is that sentence.
"""

from __future__ import annotations

from typing import Final

PROBE_TEXT: Final = "xiaozhi-bridge doctor"
