"""When speech begins and ends, from a row of speech probabilities.

Pure; time is audio time, counted in windows of ``window_ms``. Two thresholds make a hysteresis: speech begins after
``min_speech_ms`` of windows at or over ``threshold`` and a pause counts windows under ``release_threshold``; the band
between them prolongs whichever is going on.
"""

from __future__ import annotations

from enum import StrEnum

from settings.providers import VadConfig

EARLY_SHARE = 0.4
"""At this share of the closing silence a cheap recogniser may already start (`EARLY`)."""


class Mark(StrEnum):
    STARTED = "started"
    """Enough voice has been heard; the utterance began with the first of it."""
    EARLY = "early"
    """A pause: perhaps the end."""
    RESUMED = "resumed"
    """Voice after `EARLY` or `END`."""
    END = "end"
    """`silence_ms` of silence: the end, unless the words sound unfinished."""
    LAST = "last"
    """`max_silence_ms` of silence: the end whatever the words."""


class Endpointer:
    """One utterance at a time; :meth:`reset` begins the next."""

    def __init__(self, options: VadConfig, *, window_ms: float) -> None:
        self._options = options
        self._window_ms = window_ms
        self._voiced_ms = 0.0
        self._silence_ms = 0.0
        self._started = False
        self.speech_ms = 0.0
        """Voice heard in this utterance so far."""

    @property
    def in_speech(self) -> bool:
        """Between `STARTED` and the next reset."""
        return self._started

    @property
    def silence_ms(self) -> float:
        """How long the current pause has lasted; 0 while there is voice."""
        return self._silence_ms

    def reset(self) -> None:
        self._voiced_ms = self._silence_ms = self.speech_ms = 0.0
        self._started = False

    def push(self, probability: float) -> Mark | None:
        """Take the next window's speech probability (0..1)."""
        return self._in_speech(probability) if self._started else self._before_speech(probability)

    def _before_speech(self, probability: float) -> Mark | None:
        if probability >= self._options.threshold:
            self._voiced_ms += self._window_ms
        elif probability < self._options.release_threshold:
            self._voiced_ms = max(0.0, self._voiced_ms - self._window_ms)
        if self._voiced_ms < self._options.min_speech_ms:
            return None
        self._started = True
        self.speech_ms = self._voiced_ms
        return Mark.STARTED

    def _in_speech(self, probability: float) -> Mark | None:
        voiced = probability >= (self._options.threshold if self._silence_ms else self._options.release_threshold)
        if voiced:
            resumed = self._silence_ms >= self._early_ms - self._window_ms / 2
            self._silence_ms = 0.0
            self.speech_ms += self._window_ms
            return Mark.RESUMED if resumed else None
        before = self._silence_ms
        self._silence_ms += self._window_ms
        for limit_ms, mark in (
            (self._last_ms, Mark.LAST),
            (float(self._options.silence_ms), Mark.END),
            (self._early_ms, Mark.EARLY),
        ):
            # the window nearest to the limit, not the first behind it: a whole window is a long time to wait
            if before < limit_ms - self._window_ms / 2 <= self._silence_ms:
                return mark
        return None

    @property
    def _early_ms(self) -> float:
        return max(self._window_ms, self._options.silence_ms * EARLY_SHARE)

    @property
    def _last_ms(self) -> float:
        return float(max(self._options.max_silence_ms, self._options.silence_ms + self._window_ms))
