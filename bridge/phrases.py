"""What the bridge itself says, per language. Another language is another entry."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phrases:
    """The sentences of one language."""

    one_moment: str
    done: str
    """A tool has done it, and the model has no words for that."""
    did_not_hear: str
    """Recognition failed."""
    cannot_think: str
    """The language model failed."""
    cannot_speak: str
    """Synthesis failed: shown, not spoken."""
    went_wrong: str
    path_works: str
    """Spoken when the doctor asks: who hears it has audio both ways."""
    no_audio: str
    """Shown when nothing arrives from a device that listens."""
    no_model: str
    """The language model does not speak this language."""


_PHRASES = {
    "en": Phrases(
        one_moment="One moment.",
        done="Done.",
        did_not_hear="Sorry, my speech recognition is not working right now.",
        cannot_think="Sorry, I cannot reach my language model right now.",
        cannot_speak="My voice is not working right now.",
        went_wrong="Sorry, something went wrong.",
        path_works="The connection works.",
        no_audio="No audio arrives at the server. Check its UDP port and address.",
        no_model="I have no language model for this language yet. I can tell the time, set timers, change the volume and do sums.",
    ),
    "zh": Phrases(
        one_moment="请稍等。",
        done="好了。",
        did_not_hear="抱歉，语音识别暂时不可用。",
        cannot_think="抱歉，我暂时连接不上语言模型。",
        cannot_speak="语音合成暂时不可用。",
        went_wrong="抱歉，出了点问题。",
        path_works="连接正常。",
        no_audio="服务器收不到音频，请检查 UDP 端口和地址。",
        no_model="我还没有接入会说中文的语言模型。我可以报时间、设定时器、调音量和做算术。",
    ),
}


def phrases(language: str) -> Phrases:
    """The phrases of a language code such as ``zh`` or ``zh-CN``; English when it is unknown."""
    return _PHRASES.get(language.lower().partition("-")[0], _PHRASES["en"])


def language_of(text: str) -> str:
    """``zh`` when Han characters prevail, else ``en``: for text whose language nobody has told."""
    han = sum(1 for character in text if "\u4e00" <= character <= "\u9fff")
    letters = sum(1 for character in text if character.isascii() and character.isalpha())
    return "zh" if han * 3 > letters else "en"
