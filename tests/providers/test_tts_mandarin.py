"""Numbers as a Chinese speaker reads them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.tts.mandarin import written_out


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("现在是2024年3月5日下午3:30", "现在是二零二四年三月五日下午三点半"),
        ("2024-03-05 和 2025/11/22", "二零二四年三月五日 和 二零二五年十一月二十二日"),
        ("12:05，0:00，2:15，8:00:07", "十二点零五分，零点，两点十五分，八点零分零七秒"),
        ("下午15:00-16:30", "下午十五点至十六点半"),
        ("3点05分", "三点零五分"),
        ("气温24.5°C，夜里-5℃，77°F", "气温二十四点五度，夜里零下五度，华氏七十七度"),
        ("20-25℃，12°C~18°C", "二十到二十五度，十二度到十八度"),
        ("湿度60%，50％，-3%，5‰", "湿度百分之六十，百分之五十，负百分之三，千分之五"),
        ("电话13800138000，010-12345678", "电话幺三八零零幺三八零零零，零幺零幺二三四五六七八"),
        ("第2个，2个苹果，12个，2月2号", "第二个，两个苹果，十二个，二月二号"),
        ("1,234元，$5，￥2.5", "一千二百三十四元，五美元，二点五元"),
        ("1/2的人", "二分之一的人"),
        ("3.14，1010，20000", "三点一四，一千零一十，二万"),
        ("192.168.1.1", "一九二点一六八点一点一"),
        ("2 × 3 = 6，5 - 3 = 2", "二乘三等于六，五减三等于二"),
        ("比分3:2", "比分三比二"),
        ("10kg，5km/h，60W，35μg/m³", "十公斤，五公里每小时，六十瓦，三十五微克每立方米"),
        ("ESP32，iPhone 15，COVID-19", "ESP三二，iPhone 十五，COVID 十九"),
        ("007", "零零七"),
        ("温度-3", "温度负三"),
        ("２０２４年", "二零二四年"),
        ("12345678901234567890", "幺二三四五六七八九零幺二三四五六七八九零"),
        ("没有数字。", "没有数字。"),
    ],
)
def test_reading(written: str, read: str) -> None:
    assert written_out(written) == read


PIECES = st.lists(st.sampled_from([*"0123456789.:-/%,~$°年月日个 ", "°C", "℃", "kg", "第", "PM", "1e5", "×"])).map("".join)


@settings(deadline=None)  # machines pause
@given(st.text() | PIECES)
def test_no_digit_is_left(text: str) -> None:
    assert not re.search(r"[0-9]", written_out(text))
