"""Text as the phonemes that Kokoro v1.0 was trained on.

Chinese words become IPA syllables with arrows for tones (misaki's first front end; the bopomofo of its second belongs to
the v1.1 model), without tone sandhi, which the model has learnt by itself. English words are looked up in misaki's
dictionary, then asked of eSpeak where Piper is installed, then spelled letter by letter.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from functools import cached_property
from importlib import resources
from tempfile import TemporaryDirectory
from typing import Final

from providers.tts import espeak
from providers.tts.mandarin import written_out
from providers.tts.text import prevailing_script

# Where runs of consecutive token numbers begin, from the model's configuration: facts about the weights.
_TOKEN_RUNS: Final = (
    (1, ";:,.!?"), (9, '—…"()“” \u0303ʣʥʦʨᵝ\uab67AI'), (31, "O"), (33, "Q"), (35, "ST"), (39, "W"), (41, "Yᵊabcdef"),
    (50, "hijklmnopqrstuvwxyzɑɐɒæ"), (75, "βɔɕç"), (80, "ɖðʤə"), (85, "ɚɛɜ"), (90, "ɟ"), (92, "ɡ"), (99, "ɥ"), (101, "ɨɪʝ"),
    (110, "ɯɰŋɳɲɴø"), (118, "ɸθœ"), (123, "ɹ"), (125, "ɾɻ"), (128, "ʁɽʂʃʈʧ"), (135, "ʊʋ"), (138, "ʌɣɤ"), (142, "χʎ"), (147, "ʒʔ"),
    (156, "ˈˌː"), (162, "ʰ"), (164, "ʲ"), (169, "↓"), (171, "→↗↘"), (177, "ᵻ"),
)  # fmt: skip
TOKENS: Final[dict[str, int]] = {symbol: first + offset for first, run in _TOKEN_RUNS for offset, symbol in enumerate(run)}
"""Token number of each phoneme, stop and tone: 114 of them; 0 pads."""

_STOPS: Final = str.maketrans(
    {
        "，": ", ", "、": ", ", "。": ". ", "．": ". ", "！": "! ", "？": "? ", "；": "; ", "：": ": ", "⋯": "…", "–": "—",
        "「": " “", "『": " “", "《": " “", "【": " “", "«": " “", "„": " “",
        "」": "” ", "』": "” ", "》": "” ", "】": "” ", "»": "” ", "（": " (", "）": ") ", "[": " (", "]": ") ",
    }
)  # fmt: skip
_SEGMENT: Final = re.compile(
    r"(?P<han>[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+)"
    r"|(?P<latin>[A-Za-z](?:['’-]?[A-Za-z])*(?:\s+[A-Za-z](?:['’-]?[A-Za-z])*)*)"
    r"|(?P<number>[0-9]+(?:[.,:][0-9]+)*)"
    r"|(?P<other>.)",
    re.DOTALL,
)
_SPACES: Final = re.compile(r" +(?=[ ,.;:!?)”])")
_HUMP: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# IPA as eSpeak writes American English -> the symbols of the model; longer ones first.
_FROM_IPA: Final = (
    ("eɪ", "A"), ("aɪ", "I"), ("aʊ", "W"), ("ɔɪ", "Y"), ("oʊ", "O"), ("dʒ", "ʤ"), ("tʃ", "ʧ"), ("ɜː", "ɜɹ"), ("əl", "ᵊl"),
    ("n\u0329", "ᵊn"), ("l\u0329", "ᵊl"), ("m\u0329", "ᵊm"), ("ɚ", "əɹ"), ("ɾ", "T"), ("ʔ", "t"), ("ɬ", "l"), ("r", "ɹ"),
    ("g", "ɡ"), ("x", "k"), ("ː", ""),
)  # fmt: skip
_WEAK: Final = {"the": "ðə", "a": "ɐ"}
_DIGIT_WORDS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Phonemizer:
    """Loads the Chinese dictionaries on construction (a second); to be made and used in one thread."""

    def __init__(self) -> None:
        import jieba
        from misaki.zh import ZHG2P

        jieba.setLogLevel(logging.WARNING)
        tokenizer = jieba.Tokenizer()
        # It would load its cache from a file of known name that anyone can write (/tmp/jieba.cache).
        with TemporaryDirectory(prefix="xiaozhi-bridge-jieba-") as private:
            tokenizer.tmp_dir = private
            tokenizer.initialize()
        self._cut = tokenizer.lcut
        self._syllables = ZHG2P.word2ipa
        self.unspoken = 0
        """Letters and digits so far that had no pronunciation and were left out."""

    @cached_property
    def _english(self) -> dict[str, str | dict[str, str | None]]:
        """Read when the first English word comes: many homes never say one, and it takes 25 MB."""
        dictionary = resources.files("misaki") / "data" / "us_gold.json"
        entries: dict[str, str | dict[str, str | None]] = json.loads(dictionary.read_text(encoding="utf-8"))
        return entries

    def phonemes(self, text: str) -> str:
        """The phonemes of ``text`` (as :func:`providers.tts.text.speakable` leaves it), all of them keys of TOKENS."""
        chinese = prevailing_script(text) == "cjk"
        if chinese:
            text = written_out(text)
        text = unicodedata.normalize("NFC", text).translate(_STOPS)
        spoken = "".join(self._segment(match, chinese=chinese) for match in _SEGMENT.finditer(_plain_latin(text)))
        spoken = _SPACES.sub("", spoken).strip()
        return "".join(symbol for symbol in spoken if symbol in TOKENS)

    def _segment(self, match: re.Match[str], *, chinese: bool) -> str:
        segment = match[0]
        if match["han"]:
            return " ".join(self._chinese(word) for word in self._cut(segment))
        if match["latin"]:
            return f" {self._latin(segment, chinese=chinese)} "
        if match["number"]:
            return f" {_from_espeak(segment) or ' '.join(self._word(_DIGIT_WORDS[int(d)]) for d in segment if d.isdigit())} "
        if segment in TOKENS and not segment.isalpha():
            return segment
        self.unspoken += segment.isalnum()
        return " "

    def _chinese(self, word: str) -> str:
        try:
            return str(self._syllables(word)).replace("\u032f", "")
        except (ValueError, KeyError, AssertionError):  # a character without a reading; its neighbours have theirs
            if len(word) == 1:
                self.unspoken += 1
                return ""
            return "".join(self._chinese(character) for character in word)

    def _latin(self, words: str, *, chinese: bool) -> str:
        if not chinese and (sentence := _from_espeak(words)):
            return sentence
        return " ".join(self._word(word) for word in words.split())

    def _word(self, word: str) -> str:
        """An English word: as it is written, in lower case, in its parts, by eSpeak, by its letters."""
        word = word.replace("’", "'")
        if word in _WEAK:
            return _WEAK[word]
        if len(word) == 1:
            return self._listed(word.upper()) or ""
        known = self._listed(word) or self._listed(word.lower()) or self._listed(word.capitalize())
        if known:
            return known
        if word.isupper() and len(word) <= 5:
            return self._spelled(word)
        parts = [part for piece in word.split("-") for part in _HUMP.findall(piece)]
        if len(parts) > 1 and "'" not in word:
            return " ".join(self._word(part) for part in parts)
        return _from_espeak(word) or self._spelled(word)

    def _listed(self, word: str) -> str | None:
        entry = self._english.get(word)
        return entry.get("DEFAULT") if isinstance(entry, dict) else entry

    def _spelled(self, word: str) -> str:
        return " ".join(self._listed(letter) or "" for letter in word.upper() if letter.isalpha())


def tokens(phonemes: str) -> list[int]:
    """Token numbers, without padding."""
    return [TOKENS[symbol] for symbol in phonemes]


def _from_espeak(text: str) -> str | None:
    spoken = espeak.ipa(text)
    if spoken is None:
        return None
    for ipa, symbol in _FROM_IPA:
        spoken = spoken.replace(ipa, symbol)
    return spoken.strip(" .") or None


def _plain_latin(text: str) -> str:
    """Latin letters without their accents (é -> e), which the dictionaries do not know."""
    return "".join(_plain(character) for character in text)


def _plain(character: str) -> str:
    base = unicodedata.normalize("NFD", character)[0]
    return base if base.isascii() and base.isalpha() else character
