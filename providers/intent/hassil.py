"""Intents by sentence templates: hassil with the Home Assistant project's sentences and our own.

Our own templates (``sentences/<language>.yaml``) are tried first; then those of ``home-assistant-intents`` that make sense without a
home. Both are matched against the whole sentence, so what no template has ("tell me a story") is left to the model.

Intents and their slots (all optional unless said otherwise)::

    SetVolume percent!          ChangeVolume direction! (up, down) step        Mute  Unmute  GetVolume
    SetBrightness percent!      ChangeBrightness direction! step               GetBrightness  SetTheme theme! (light, dark)
    GetTime  GetDate offset_days part (year, month)                            GetBattery  GetStatus
    StartTimer seconds name     Remind seconds! reminder                       CancelTimer seconds name  CancelAllTimers
    ExtendTimer seconds! (negative shortens) name                              TimerStatus seconds name
    Calculate expression!       Capabilities  Nevermind  Goodbye occasion (night)
"""

from __future__ import annotations

import asyncio
import importlib.resources
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import structlog

from providers.base import Intent
from providers.intent.arithmetic import find_expression
from providers.intent.normalise import has_chinese, normalise, variants
from settings.providers import HassilIntents

log = structlog.get_logger(__name__)

# Home Assistant's name, ours, and what it means for the slots.
_SHARED: Final[dict[str, str]] = {
    "HassSetVolume": "SetVolume",
    "HassSetVolumeRelative": "ChangeVolume",
    "HassGetCurrentTime": "GetTime",
    "HassGetCurrentDate": "GetDate",
    "HassStartTimer": "StartTimer",
    "HassCancelTimer": "CancelTimer",
    "HassCancelAllTimers": "CancelAllTimers",
    "HassIncreaseTimer": "ExtendTimer",
    "HassDecreaseTimer": "ExtendTimer",
    "HassTimerStatus": "TimerStatus",
    "HassNevermind": "Nevermind",
}
# Sentences about a room, a floor or an appliance, and commands to run later, need a home.
_NEEDS_HOME: Final = ("{area", "{floor", "{name", "{timer_command")
_REGIONS: Final = {"zh": "zh-CN"}
_RULE = re.compile(r"<([^<>]+)>")
_WORDS_LIMIT: Final = 60
_NAME_WORDS: Final = 4
_PRIME: Final = ("set the volume to thirty", "set a timer for five minutes and ten seconds", "音量调到三十", "五分钟的倒计时")


@dataclass(frozen=True, slots=True)
class _Grammar:
    """One language: compiled templates, in the order they are tried."""

    language: str
    chinese: bool
    templates: tuple[Any, ...]


@dataclass(slots=True)
class RecognizerStats:
    """Counters."""

    sentences: int = 0
    matched: int = 0


class HassilRecognizer:
    """Recognises in its own thread; the templates are compiled by :meth:`warm` or at the first sentence."""

    def __init__(self, *, languages: Iterable[str]) -> None:
        self.stats = RecognizerStats()
        self._languages = tuple(languages)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="intents")
        self._grammars: tuple[_Grammar, ...] | None = None

    async def warm(self) -> None:
        """Load and compile the templates, once. Cancellation leaves the thread to finish; nothing is lost."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._load)

    async def recognize(self, text: str, *, language: str | None = None) -> Intent | None:
        """The intent of the sentence, or None when it is not one of ours. ``language`` says which templates are tried first."""
        plain = normalise(text)
        if not plain:
            return None
        intent = await asyncio.get_running_loop().run_in_executor(self._executor, self._recognize, plain, language)
        self.stats.sentences += 1
        self.stats.matched += intent is not None
        return intent

    async def aclose(self) -> None:
        """Let the thread end. Idempotent."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    # -- in the thread -------------------------------------------------------------------------------------------------
    def _load(self) -> tuple[_Grammar, ...]:
        if self._grammars is None:
            self._grammars = tuple(grammar for grammar in map(_load_grammar, self._languages) if grammar is not None)
            for sentence in _PRIME:  # number words are compiled at their first use
                self._recognize(sentence, None)
        return self._grammars

    def _recognize(self, plain: str, language: str | None) -> Intent | None:
        chinese = has_chinese(plain)
        sentences = tuple(variants(plain))
        for grammar in _in_order(self._load(), language, chinese=chinese):
            for sentence in sentences:
                expression = find_expression(sentence, chinese=chinese) if grammar.chinese == chinese else None
                if expression is not None:
                    return Intent("Calculate", {"expression": expression}, grammar.language)
                found = _match(grammar, sentence)
                if found is not None:
                    return found
        return None


def build(config: HassilIntents, *, store: object) -> HassilRecognizer:
    """The recogniser of these languages; it needs no model from the ``store``."""
    return HassilRecognizer(languages=config.languages)


# -- loading -----------------------------------------------------------------------------------------------------------
def _load_grammar(language: str) -> _Grammar | None:
    from hassil import Intents

    sources = [source for source in (_own_sentences(language), _shared_sentences(language)) if source is not None]
    if not sources:
        log.warning("no sentences are known in this language", language=language)
        return None
    templates = tuple(Intents.from_dict(source) for source in sources)
    for compiled in templates:
        for intent in compiled.intents.values():
            for data in intent.data:
                _ = data.sentences  # parsed at first access: now, not during a turn
    return _Grammar(language, language.split("-", maxsplit=1)[0] == "zh", templates)


def _own_sentences(language: str) -> dict[str, Any] | None:
    import yaml

    folder = importlib.resources.files(__package__) / "sentences"
    for name in _spellings(language):
        source = folder / f"{name}.yaml"
        if source.is_file():
            loaded: dict[str, Any] = yaml.safe_load(source.read_text(encoding="utf-8"))
            return loaded
    return None


def _shared_sentences(language: str) -> dict[str, Any] | None:
    """The part of Home Assistant's sentences that we use, so that the rest is never compiled."""
    import home_assistant_intents

    source = next((found for name in _spellings(language) if (found := home_assistant_intents.get_intents(name))), None)
    if source is None:
        return None
    rules: dict[str, str] = source.get("expansion_rules", {})
    intents: dict[str, Any] = {}
    texts: list[str] = []
    for name in _SHARED:
        blocks = [_without_home(block, rules) for block in source["intents"].get(name, {}).get("data", [])]
        kept = [block for block in blocks if block["sentences"]]
        if kept:
            intents[name] = {"data": kept}
            texts += [sentence for block in kept for sentence in block["sentences"]]
    used_rules = _reachable("\n".join(texts), rules)
    used = "\n".join([*texts, *used_rules.values()])
    return {
        "language": source["language"],
        "settings": source.get("settings", {}),
        "intents": intents,
        "lists": {name: listed for name, listed in source.get("lists", {}).items() if f"{{{name}" in used},
        "expansion_rules": used_rules,
    }


def _spellings(language: str) -> Iterator[str]:
    """The language as it is written, without its region, and with the region that files of that language have."""
    base = language.split("-", maxsplit=1)[0]
    yield from dict.fromkeys((language, base, _REGIONS.get(base, base)))


def _without_home(block: dict[str, Any], rules: dict[str, str]) -> dict[str, Any]:
    """The block with the sentences that need no room or appliance, and without the context that only a home has."""

    def needs_home(sentence: str) -> bool:
        whole = "\n".join([sentence, *_reachable(sentence, rules).values()])
        return any(slot in whole for slot in _NEEDS_HOME)

    return {"sentences": [sentence for sentence in block["sentences"] if not needs_home(sentence)], "slots": block.get("slots", {})}


def _reachable(text: str, rules: dict[str, str]) -> dict[str, str]:
    """The rules that the text uses, and those that they use."""
    reached: dict[str, str] = {}
    waiting = {name for name in _RULE.findall(text) if name in rules}
    while waiting:
        name = waiting.pop()
        reached[name] = rules[name]
        waiting |= {other for other in _RULE.findall(rules[name]) if other in rules and other not in reached}
    return reached


# -- matching ----------------------------------------------------------------------------------------------------------
def _in_order(grammars: tuple[_Grammar, ...], language: str | None, *, chinese: bool) -> list[_Grammar]:
    """Those of the script first, among them that of the language; a recogniser of speech guesses languages wrongly at times."""
    wanted = (language or "").lower()
    return sorted(
        grammars,
        key=lambda grammar: (grammar.chinese != chinese, not grammar.language.lower().startswith(wanted) if wanted else False),
    )


def _match(grammar: _Grammar, sentence: str) -> Intent | None:
    """The match that leaves the fewest words to a wildcard, so that "the" in "cancel the timer" names no timer; ours before theirs."""
    from hassil import recognize_all

    best: Intent | None = None
    fewest = _WORDS_LIMIT + 1
    for templates in grammar.templates:
        for result in recognize_all(sentence, templates):
            raw = {name: entity.value for name, entity in result.entities.items()}
            name = _SHARED.get(result.intent.name, result.intent.name)
            slots = _plain_slots(raw, shortens=result.intent.name == "HassDecreaseTimer")
            if slots is None or not _complete(name, slots):
                continue
            free = len(slots.get("name", "")) + len(slots.get("reminder", ""))
            if free < fewest:
                best, fewest = Intent(name, slots, grammar.language), free
            if free == 0:
                return best
    return best


def _plain_slots(raw: dict[str, Any], *, shortens: bool) -> dict[str, Any] | None:
    """Slots as documented above: durations in seconds, words trimmed. None when words are no name."""
    slots: dict[str, Any] = {}
    parts = {unit: raw.pop(unit, raw.pop(f"start_{unit}", 0)) for unit in ("hours", "minutes", "seconds")}
    seconds = int(parts["hours"] * 3600 + parts["minutes"] * 60 + parts["seconds"] + raw.pop("span_seconds", 0))
    if seconds:
        slots["seconds"] = seconds * (-1 if shortens else int(raw.pop("sign", 1)))
    raw.pop("sign", None)
    for key, value in raw.items():
        match key, value:
            case "volume_level", int() | float():
                slots["percent"] = int(value)
            case "volume_step", "up" | "down":
                slots["direction"] = value
            case "volume_step", int() | float():
                slots |= {"direction": "up" if value > 0 else "down", "step": abs(int(value))}
            case "name" | "reminder", str():
                words = value.strip(" ,.'")
                if not words or len(words) > _WORDS_LIMIT or (key == "name" and not _is_name(words)):
                    return None
                slots[key] = words
            case (("percent" | "step" | "offset_days"), int() | float()):
                slots[key] = int(value)
            case _, str():
                slots[key] = value
    return slots


def _is_name(words: str) -> bool:
    """A timer's name is a few words; more is a sentence that only looks like one."""
    return len(words) <= 8 if has_chinese(words) else len(words.split()) <= _NAME_WORDS


_NEEDED: Final = {
    "SetVolume": "percent",
    "ChangeVolume": "direction",
    "SetBrightness": "percent",
    "ChangeBrightness": "direction",
    "SetTheme": "theme",
    "Remind": "seconds",
    "ExtendTimer": "seconds",
}


def _complete(name: str, slots: dict[str, Any]) -> bool:
    needed = _NEEDED.get(name)
    return needed is None or needed in slots
