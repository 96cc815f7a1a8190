"""Cuts a stream of text into what is spoken at once: an early clause first, then whole sentences.

Pure. Knows the full stops of many scripts and what only looks like one: decimals, abbreviations, initials, list
numbers, host names. A mark at the end of what has arrived is undecided until the next character is seen.
"""

from __future__ import annotations

import unicodedata

FULL_STOPS = frozenset("。！？…｡．؟۔।॥።၊။‽")
"""End a sentence wherever they stand."""
ASCII_STOPS = frozenset(".!?")
"""End a sentence before white space, a closing mark or a CJK character."""
CLAUSE_MARKS = frozenset(",，、;；:：—–،؛")
CLOSERS = frozenset("\"'”’」』）)]】》»")
ABBREVIATIONS = frozenset("mr mrs ms dr prof sr jr st vs e.g i.e z.b d.h bzw".split())
"""Never end a sentence."""
SOFT_ABBREVIATIONS = frozenset("etc a.m p.m u.s u.k no nr fig inc ltd approx ca usw".split())
"""End one only before a capital."""

FENCES = ("```", "~~~")
"""Enclose code in markdown."""

FIRST_CLAUSE_CJK = 6
FIRST_CLAUSE_WORDS = 3
LONGEST = 240
"""Characters after which a sentence without an end is cut at its last clause or space."""


def is_cjk(character: str) -> bool:
    """True for Han, Kana and Hangul characters and full-width forms."""
    code = ord(character)
    return 0x2E80 <= code <= 0x9FFF or 0xAC00 <= code <= 0xD7AF or 0xF900 <= code <= 0xFAFF or 0xFF00 <= code <= 0xFFEF or code >= 0x20000


def _inside_brackets(head: str) -> bool:
    """Whether a bracket is open at the end: a link, an aside."""
    return max(head.rfind("["), head.rfind("(")) > max(head.rfind("]"), head.rfind(")"))


def speakable_length(text: str) -> tuple[int, int]:
    """CJK characters and words of other scripts in ``text``."""
    cjk = sum(1 for character in text if is_cjk(character) and unicodedata.category(character)[0] == "L")
    words = sum(1 for word in text.split() if any(c.isalnum() and not is_cjk(c) for c in word))
    return cjk, words


class SentenceSplitter:
    """Feed it deltas, take sentences; :meth:`flush` at the end. Joined, its output is its input but for white space."""

    def __init__(self) -> None:
        self._text = ""
        self._scanned = 0
        self._first = True

    def feed(self, delta: str) -> list[str]:
        """The sentences completed by this piece of text."""
        self._text += delta
        out: list[str] = []
        while (end := self._next_end()) is not None:
            self._take(end, out)
        return out

    def flush(self) -> list[str]:
        """What is left, as one last piece; the splitter starts over."""
        out: list[str] = []
        self._take(len(self._text), out)
        self._first = True
        return out

    def cut(self) -> list[str]:
        """The words that are whole so far, when nothing has been said yet and a listener has waited long enough for an end.

        At least as many as a first clause has; not after a word that asks for more ("of", "the"), nor inside one.
        """
        out: list[str] = []
        if self._first and (end := self._last_resting_place()):
            self._take(end, out)
        return out

    def _last_resting_place(self) -> int:
        """Where speech may pause although no mark stands there; 0 for nowhere."""
        text = self._text
        for index in range(len(text) - 1, 0, -1):
            head = text[:index]
            if text[index] in CLAUSE_MARKS | FULL_STOPS or _inside_brackets(head):
                continue
            if text[index].isspace():
                words = head.split()
                if speakable_length(head)[1] < FIRST_CLAUSE_WORDS:
                    return 0
                if words[-1].lower() not in _UNFINISHED_EN and any(character.isalnum() for character in words[-1]):
                    return index
            elif head[-1] in _RESTS_ZH and is_cjk(text[index]) and text[index - 1 : index + 1] not in _RESTLESS_ZH:
                return index if speakable_length(head)[0] >= FIRST_CLAUSE_CJK else 0
        return 0

    def _take(self, end: int, out: list[str]) -> None:
        piece, self._text, self._scanned = self._text[:end].strip(), self._text[end:], 0
        if piece:
            out.append(piece)
            self._first = False

    def _next_end(self) -> int | None:
        text = self._text
        for index in range(self._scanned, len(text)):
            end = index + 1 if text[index] == "\n" else self._end_at(index)
            if end is None:
                self._scanned = index
                return self._too_long()
            # Punctuation or an emoji alone goes with what follows.
            if end and any(character.isalnum() for character in text[:end]):
                return end
        self._scanned = len(text)
        return self._too_long()

    def _end_at(self, index: int) -> int | None:
        """Where the piece that ends with the mark at ``index`` ends; 0 when it does not end; None when more must be seen."""
        text, character = self._text, self._text[index]
        if character in FULL_STOPS or character in ASCII_STOPS:
            after = index + 1
            while after < len(text) and (text[after] in FULL_STOPS or text[after] in ASCII_STOPS or text[after] in CLOSERS):
                after += 1
            if after == len(text):
                return None
            if character in FULL_STOPS:
                return after
            return self._ascii_end(index, after)
        if self._first and character in CLAUSE_MARKS:
            return self._clause_end(index)
        return 0

    def _ascii_end(self, index: int, after: int) -> int | None:
        """As :meth:`_end_at`, for an ASCII mark at ``index`` whose run of marks and closers ends before ``after``."""
        following = self._text[after]
        if not (following.isspace() or is_cjk(following)):
            return 0
        if self._text[index] != ".":
            return after
        words = self._text[:index].split()
        word = words[-1].lstrip("\"'([“‘").lower() if words else ""
        if word in SOFT_ABBREVIATIONS:
            rest = self._text[after:].lstrip()
            return None if not rest else after if not (rest[0].islower() or rest[0].isdigit()) else 0
        if word in ABBREVIATIONS or (len(word) == 1 and word.isalpha()):
            return 0
        # "1. Milk": a list number, unless the sentence so far has words before it
        return 0 if word.isdigit() and len(word) <= 2 and len(words) == 1 else after

    def _clause_end(self, index: int) -> int | None:
        if index + 1 == len(self._text):
            return None
        following = self._text[index + 1]
        if self._text[index] in ",:" and not (following.isspace() or is_cjk(following)):
            return 0
        cjk, words = speakable_length(self._text[:index])
        return index + 1 if cjk >= FIRST_CLAUSE_CJK or words >= FIRST_CLAUSE_WORDS else 0

    def _too_long(self) -> int | None:
        if len(self._text) <= LONGEST:
            return None
        head = self._text[:LONGEST]
        for index in range(LONGEST - 1, LONGEST // 2, -1):
            if head[index] in CLAUSE_MARKS:
                return index + 1
        space = head.rfind(" ", LONGEST // 2)
        return space + 1 if space > 0 else LONGEST


class CodeFilter:
    """Takes fenced code out of a stream of markdown before it is cut into sentences: nobody wants to hear code.

    A block that is not closed lasts to the end. Pure.
    """

    def __init__(self) -> None:
        self._held = ""
        self._fence = ""
        """What closes the block that we are in; empty outside."""

    def feed(self, delta: str) -> str:
        """What of this piece, and of what was held back before it, is no code. A line break stands where a block was."""
        text, self._held, out = self._held + delta, "", ""
        while text:
            fences = (self._fence,) if self._fence else FENCES
            fence, at = min(((fence, text.find(fence)) for fence in fences if fence in text), key=lambda found: found[1], default=("", -1))
            if at < 0:
                kept = _fence_begun(text, fences)
                self._held = text[len(text) - kept :]
                return out if self._fence else out + text[: len(text) - kept]
            out += "" if self._fence else text[:at] + "\n"
            self._fence = "" if self._fence else fence
            text = text[at + len(fence) :]
        return out

    def flush(self) -> str:
        """What was held back, as no fence has come of it; the filter starts over."""
        held = "" if self._fence else self._held
        self._held = self._fence = ""
        return held


def _fence_begun(text: str, fences: tuple[str, ...]) -> int:
    """How many characters at the end of ``text`` may become a fence."""
    return next((n for n in (2, 1) if any(text.endswith(fence[:n]) for fence in fences)), 0)


_UNFINISHED_EN = frozenset(
    (
        "and or but so because if when while the a an of to for with in on at from by my your his her their our is are was were"
        " that which who what's where's how's not then than as about into like"
    ).split()
)
_RESTS_ZH = frozenset("的了吗呢吧们")
"""Characters that nearly always end a word: a voice may pause behind them."""
_RESTLESS_ZH = frozenset({"的确", "的士", "了解", "了不"})
_UNFINISHED_ENDS_EN = (
    *("like to know", "want to know", "tell me", "show me", "remind me", "do you know", "i would like", "i'd like", "i want", "i need"),
    *("can you", "could you", "would you", "will you", "how much", "how many", "how about", "i am", "i'm", "it's", "and then"),
)
"""Whole words that ask for an object or a verb."""
_UNFINISHED_ZH = (
    *("因为", "但是", "然后", "如果", "所以", "和", "跟", "把", "还有", "就是", "那个", "比如", "的话"),
    *(
        "我想知道",
        "请问",
        "告诉我",
        "提醒我",
        "帮我",
        "给我",
        "我想",
        "我要",
        "我想要",
        "能不能",
        "可不可以",
        "你能",
        "关于",
        "或者",
        "还是",
        "而且",
        "不过",
        "可是",
    ),
)


def sounds_unfinished(text: str) -> bool:
    """True when the words so far ask for more: they end with a conjunction, an article, a comma, an ellipsis or a hesitation.

    >>> sounds_unfinished("Turn on the"), sounds_unfinished("Turn on the light.")
    (True, False)
    """
    text = text.strip()
    if not text:
        return False
    if text.endswith((",", "，", "、", "...", "…", "-", "—", "–")):
        return True
    bare = text.rstrip(".。!！?？ ").lower()
    if text[-1] in "?？!！":
        return False
    last = bare.split()[-1] if bare.split() else ""
    if any(bare == end or bare.endswith(f" {end}") for end in _UNFINISHED_ENDS_EN):
        return True
    return last in _UNFINISHED_EN or bare.endswith(_UNFINISHED_ZH) or last in {"um", "uh", "er", "hmm"}


def bare(text: str) -> str:
    """Letters and digits only, case folded: for comparing what was heard.

    >>> bare("Hi, ESP!")
    'hiesp'
    """
    return "".join(character for character in text.casefold() if character.isalnum())


def without_prefix(text: str, prefix: str) -> str:
    """``text`` without the words at its start that are ``prefix`` (a :func:`bare` string), however punctuated.

    >>> without_prefix("Hi ESP, what time is it?", "hiesp")
    'what time is it?'
    """
    if not prefix:
        return text
    left = prefix
    for index, character in enumerate(text):
        folded = bare(character)
        if not folded:
            continue
        if not left.startswith(folded):
            return text
        left = left[len(folded) :]
        if not left:
            rest = text[index + 1 :]
            inside_word = rest[:1].isalnum() and not is_cjk(rest[0])
            return text if inside_word else rest.lstrip(" ,.!?，。！？、;；:：")
    return text
