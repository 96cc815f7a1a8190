"""What a recogniser of speech writes, brought to the plain form that sentence templates have (P).

Lower case, half-width characters, no punctuation, no courtesies around the request: "Could you turn it up a bit, please?" becomes
"turn it up a bit".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

TEXT_LIMIT: Final = 200
"""Longer sentences are no commands."""

_CJK = re.compile(r"[\u3400-\u9fff]")
_PUNCTUATION = re.compile(r"[!?;\"“”‘„«»…~、。，！？；：·|<>\[\]{}_#&]|(?<!\d)[.,:](?!\d)|(?<=\d)[.,:](?!\d)|(?<!\d)[.,:](?=\d)")
_DASH = re.compile(r"[\u2010-\u2015\u2212]")
_SPACE = re.compile(r"\s+")

# Recognisers of speech often write Chinese in traditional characters: those that our sentences use.
_SIMPLIFIED: Final = str.maketrans(
    "調聲點開關鐘鍾時間後幾號個數設電為麼嗎請幫說講還過見謝會這樣讓將給鬧計減長螢顯換題週禮現問該應靜響輕兩萬億負餘態備機統報來聽對沒話結離覺夢"
    "東麗誰約訂節愛書買賣歲兒條達貝處總體學國語員難戶麵",
    "调声点开关钟钟时间后几号个数设电为么吗请帮说讲还过见谢会这样让将给闹计减长屏显换题周礼现问该应静响轻两万亿负余态备机统报来听对没话结离觉梦"
    "东丽谁约订节爱书买卖岁儿条达贝处总体学国语员难户面",
)

_COURTESIES_BEFORE: Final = re.compile(
    r"^(?:(?:hey|hi|hello|ok|okay|um+|uh+|er+|hmm+|well|so|and|please|kindly|quickly|just|also|"
    r"(?:can|could|would|will) you(?: just)?|can i (?:get|have) you to|i (?:want|need) you to|"
    r"i(?:'d| would) (?:like|love) (?:you )?to(?: know)?|i want to(?: know)?|do you know|do you mind telling me|go ahead and|let's|"
    r"xiao ?zhi|computer|assistant) )"
)
_COURTESIES_AFTER: Final = re.compile(
    r" (?:please|thanks|thank you(?: very much)?|for me|now|right now|again|(?:would|will|could|can) you|ok|okay|then|xiao ?zhi|"
    r"if you (?:can|could|don't mind|would))$"
)
_COURTESIES_BEFORE_ZH: Final = re.compile(
    r"^(?:请问一下|请问|你知道|请你|请|麻烦你|麻烦|帮我|帮忙|给我|你能不能|能不能|可不可以|可以|可否|你能|能|你|我想要|我想知道|我想|我要|嗯+|呃+|那个|那|喂|嘿|"
    r"小智小智|小智同学|小智)"
)
_COURTESIES_AFTER_ZH: Final = re.compile(
    r"(?:好吗|可以吗|行吗|好不好|可不可以|行不行|谢谢你|谢谢|谢了|吧|啊|呀|呢|哦|啦|嘛|吗|么|一下|小智)$"
)


def normalise(text: str) -> str:
    """Lower case, half width, single spaces, without punctuation; signs within numbers and arithmetic stay. "" when too long."""
    if len(text) > TEXT_LIMIT:
        return ""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("`", "'").translate(_SIMPLIFIED)
    plain = _DASH.sub("-", plain)
    return _SPACE.sub(" ", _PUNCTUATION.sub(" ", plain)).strip(" '-")


def has_chinese(text: str) -> bool:
    """True when the text has a Chinese character."""
    return _CJK.search(text) is not None


def variants(text: str) -> Iterator[str]:
    """A normalised sentence as it is, then without its courtesies when it has any."""
    yield text
    plain = _strip(text)
    if plain and plain != text:
        yield plain


def _strip(text: str) -> str:
    patterns = (_COURTESIES_BEFORE_ZH, _COURTESIES_AFTER_ZH) if has_chinese(text) else (_COURTESIES_BEFORE, _COURTESIES_AFTER)
    while True:
        shorter = text
        for pattern in patterns:
            shorter = pattern.sub("", shorter).strip()
        if shorter == text:
            return text
        text = shorter
