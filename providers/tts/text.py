"""What of a written sentence is spoken, and by which kind of voice. Pure.

Language models write for the eye: markdown, emoji, web addresses. :func:`speakable` leaves what a person would read
aloud; :func:`prevailing_script` tells which voice reads it; :func:`clauses` cuts it where a speaker would breathe.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from typing import Final, Literal

Script = Literal["cjk", "latin"]

_CJK: Final = (
    "\u3040-\u30ff"  # kana
    "\u3105-\u312f"  # bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # ideographs
    "\uac00-\ud7af"  # hangul
)
_CJK_LETTER: Final = re.compile(f"[{_CJK}]")
_WORD: Final = re.compile(rf"[^\W\d_{_CJK}]+(?:['’-][^\W\d_{_CJK}]+)*")
_CJK_PUNCTUATION: Final = re.compile("[\u3001-\u303f\uff01-\uff0f\uff1a-\uff1f]")

_PICTOGRAMS: Final = re.compile(
    "["
    "\u2190-\u21ff"  # arrows
    "\u2300-\u23ff"  # watches, keys
    "\u2500-\u27bf"  # boxes, shapes, symbols, dingbats
    "\u2900-\u297f\u2b00-\u2bff"  # more arrows, stars
    "\u3030\u303d\u3297\u3299"
    "\U0001f000-\U0001fbef"  # emoji proper; what follows are digits
    "]"
)
# Variation selectors, keycap frame: with the joiners and tags (category Cf) they only dress another character.
_DRESSING: Final = re.compile("[\ufe00-\ufe0f\u20e3\U000e0100-\U000e01ef]")
_EMOTICON: Final = re.compile(r"(?<![\w:])[:;=]-?[)(DPp|/\\]+(?!\w)")

_FENCE: Final = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[^\n]*$|\Z)", re.MULTILINE | re.DOTALL)
_INLINE_FENCE: Final = re.compile(r"```[^`\n]*```")
_LINK: Final = re.compile(r"!?\[([^\[\]\n]{0,500})\]\([^()\s]{0,2000}(?:\([^()\s]{0,500}\)[^()\s]{0,500})?(?:[ \t]+\"[^\"\n]{0,500}\")?\)")
_FOOTNOTE: Final = re.compile(r"\[\^?\d{1,3}\](?![(\w])")
_URL: Final = re.compile(r"<?\b(?:https?|ftp)://(?:www\.)?([A-Za-z0-9.-]{1,253})(?::\d{1,5})?((?:[/?#][!-;=?-~]{0,2000})?)>?")
_TAG: Final = re.compile(r"</?[A-Za-z][A-Za-z0-9-]{0,30}(?:\s[^<>\n]{0,500})?/?>")
_RULE: Final = re.compile(r"^[ \t]*(?:[-*_=]{3,}|\|?(?:[ \t]*:?-{2,}:?[ \t]*\|?)+)[ \t]*$", re.MULTILINE)
_LINE_MARK: Final = re.compile(r"^[ \t]*(?:(?:>|#{1,6}(?=[ \t])|[-*+•‣◦·–](?=[ \t]))[ \t]*)+(?:\[[ xX]\][ \t])?", re.MULTILINE)
_NUMBER_MARK: Final = re.compile(r"^[ \t]*\d{1,2}[.)、][ \t]+(?=\S)", re.MULTILINE)
_PRODUCT: Final = re.compile(r"(?<=\d)[ \t]*\*[ \t]*(?=\d)")
_EMPHASIS: Final = re.compile(r"[*`]+|_{2,}|~{2,}|(?<![^\W_])_|_(?![^\W_])")

_SPACES: Final = re.compile(r"[^\S\n]+")
_SPACE_BEFORE_STOP: Final = re.compile(r" +(?=[,.;:!?，。；：！？、](?:\s|$))")
_STOP: Final = frozenset(",.;:!?…，。；：！？、—")


def speakable(text: str) -> str:
    """The words of ``text`` that are spoken, on one line; empty when there are none.

    Dropped: markdown marks, fenced code, emoji and pictograms, HTML tags, control and private characters. Links become
    their text, addresses their host name, lines are joined by a comma where they end without a stop.
    """
    text = _without_pictograms(text)
    text = _INLINE_FENCE.sub(" ", _FENCE.sub("\n", text))
    text = _LINK.sub(r"\1", text)
    text = _FOOTNOTE.sub("", text)
    text = _URL.sub(_host, text)
    text = _TAG.sub(" ", text)
    text = _RULE.sub("", text)
    text = _LINE_MARK.sub("", text)
    if len(_NUMBER_MARK.findall(text)) > 1:
        # A list. A single "7. " may be the answer itself and stays.
        text = _NUMBER_MARK.sub("", text)
    text = _PRODUCT.sub(" × ", text)
    text = _EMPHASIS.sub("", text).replace("_", " ").replace("|", "\n")
    text = _one_line(text)
    return text if any(character.isalnum() for character in text) else ""


def prevailing_script(text: str) -> Script:
    """The script most of ``text`` is in: an ideograph counts as much as a Latin word, ties go to ``cjk``.

    Without any letters the punctuation decides, and without that it is ``latin``.
    """
    cjk = len(_CJK_LETTER.findall(text))
    latin = len(_WORD.findall(text))
    if cjk or latin:
        return "cjk" if cjk >= latin else "latin"
    return "cjk" if _CJK_PUNCTUATION.search(text) else "latin"


def clauses(text: str, *, min_units: int, max_units: int) -> list[str]:
    """``text`` cut after its stops into pieces of at least ``min_units`` and at most ``max_units``.

    A unit is an ideograph or a word. A clause shorter than ``min_units`` is joined with what follows (the last one with
    what precedes, where that fits); one longer than ``max_units`` is cut between units. Nothing but white space around
    the cuts is lost.
    """
    pieces: list[str] = []
    for clause in _CLAUSE_END.split(text):
        for part in _portions(clause, max_units):
            if pieces and _units(pieces[-1]) < min_units and _units(pieces[-1]) + _units(part) <= max_units:
                pieces[-1] += part
            else:
                pieces.append(part)
    if len(pieces) > 1 and _units(pieces[-1]) < min_units and _units(pieces[-2]) + _units(pieces[-1]) <= max_units:
        pieces[-2:] = [pieces[-2] + pieces[-1]]
    return [piece.strip() for piece in pieces if piece.strip()]


# After a stop that white space follows, or a CJK stop (with its closing quote), so that "3.14" and "12:30" stay whole.
_CLAUSE_END: Final = re.compile(r"(?<=[,.;:!?…])(?=\s)|(?<=[，。；：！？、])(?![”’」』）])|(?<=[，。；：！？、][”’」』）])")
_UNIT: Final = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")


def _units(text: str) -> int:
    return len(_UNIT.findall(text))


def _portions(clause: str, max_units: int) -> list[str]:
    starts = [match.start() for match in _UNIT.finditer(clause)]
    if len(starts) <= max_units:
        return [clause] if clause else []
    cuts = [0, *starts[max_units::max_units], len(clause)]
    return [clause[begin:end] for begin, end in itertools.pairwise(cuts)]


def _without_pictograms(text: str) -> str:
    """Without what has no sound and without characters that could hide markup from the later steps."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(_visible(character) for character in text)
    return _EMOTICON.sub(" ", _PICTOGRAMS.sub(" ", _DRESSING.sub("", text)))


def _visible(character: str) -> str:
    if character == "\n":
        return character
    category = unicodedata.category(character)
    if category in {"Zl", "Zp"}:
        return "\n"
    if category == "Cc":
        return " "
    return "" if category[0] == "C" else character


def _host(match: re.Match[str]) -> str:
    """``example.com`` of an address, and the full stop that ended the sentence, not the address."""
    host, path = match[1], match[2]
    trailing = re.search(r"[.,;:!?)]*$", path or host)
    stop = trailing[0] if trailing else ""
    return host.rstrip(".") + stop


def _one_line(text: str) -> str:
    joined = ""
    for raw in text.split("\n"):
        line = _SPACE_BEFORE_STOP.sub("", _SPACES.sub(" ", raw)).strip()
        if not line:
            continue
        if not joined:
            joined = line
        elif joined[-1] in _STOP:
            joined += (" " if joined[-1].isascii() else "") + line
        else:
            joined += ("，" if _CJK_LETTER.match(joined[-1]) else ", ") + line
    return joined
