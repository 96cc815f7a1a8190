"""Images as devices would judge them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.image import ImageError, inspect_image
from tests.ota.images import ESP32, image

WHOLE = image("2.5.0")


def test_whole_image() -> None:
    found = inspect_image(WHOLE)
    assert (found.version, found.project, found.chip) == ("2.5.0", "xiaozhi", "esp32s3")
    assert inspect_image(image("1.0", chip_id=ESP32)).chip == "esp32"
    assert inspect_image(image("1.0", chip_id=0xFFFF)).chip == ""
    assert inspect_image(image("1.0", hashed=False)).version == "1.0"
    assert inspect_image(WHOLE + bytes(4096)).version == "2.5.0"  # a signature may follow


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "first byte"),
        (b"PK\x03\x04" + bytes(1000), "first byte"),
        (b"\x7fELF" + bytes(1000), "first byte"),
        (b"\xff" * 0x1000 + WHOLE, "first byte"),  # a merged image of the ESP32, whose bootloader is at 0x1000
        (image(description=False) + WHOLE, "merged"),  # one of the later chips, whose bootloader is at 0
        (b"\xe9", "cut off"),
        (WHOLE[:300], "cut off"),
        (WHOLE[:-1], "cut off"),
        (WHOLE[:400] + b"x" + WHOLE[401:], "SHA-256"),
        (b"\xe9\x00" + WHOLE[2:], "0 segments"),
        (b"\xe9\x11" + WHOLE[2:], "17 segments"),
        (WHOLE[:28] + b"\xff\xff\xff\xff" + WHOLE[32:], "cut off"),
    ],
)
def test_what_is_no_image(data: bytes, complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint):
        inspect_image(data)


@given(st.binary(max_size=400), st.integers(0, len(WHOLE)))
def test_noise_raises_nothing_else(noise: bytes, keep: int) -> None:
    with suppress(ImageError):
        assert inspect_image((WHOLE[:keep] + noise)[:2000]).version.isprintable()
