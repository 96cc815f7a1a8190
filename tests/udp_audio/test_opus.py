from __future__ import annotations

import ctypes
import struct
import sys
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from udp_audio import opus as codec
from udp_audio.errors import OpusError, OpusUnavailable
from udp_audio.opus import OpusDecoder, OpusEncoder, Pcm, carries_fec, is_dtx, packet_duration_ms, plausible


def tone(*, rate_hz: int, duration_s: float, frequency_hz: float = 440) -> Pcm:
    phase = 2 * np.pi * frequency_hz * np.arange(round(rate_hz * duration_s)) / rate_hz
    return (8000 * np.sin(phase)).astype(np.int16)


def dominant_hz(samples: Pcm, *, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate_hz / len(samples))


def encoded_by_ffmpeg(codec_name: str, samples: Pcm, *, rate_hz: int, options: dict[str, str]) -> list[bytes]:
    context: Any = av.CodecContext.create(codec_name, "w")
    context.sample_rate, context.layout, context.bit_rate, context.options = rate_hz, "mono", 24000, options
    context.format = "s16" if codec_name == "libopus" else "fltp"
    context.open()
    packets = []
    for start in range(0, len(samples) - context.frame_size + 1, context.frame_size):
        block = samples[None, start : start + context.frame_size]
        frame = av.AudioFrame.from_ndarray(
            block if codec_name == "libopus" else (block / 32768).astype(np.float32), format=context.format.name, layout="mono"
        )
        frame.sample_rate, frame.pts = rate_hz, start
        packets += [bytes(packet) for packet in context.encode(frame)]
    return packets


def test_decodes_what_a_device_would_send() -> None:
    """libopus of another build, set up like the firmware: 16 kHz, 60 ms, complexity 0."""
    options = {"frame_duration": "60", "application": "audio", "compression_level": "0"}
    packets = encoded_by_ffmpeg("libopus", tone(rate_hz=16000, duration_s=1.2), rate_hz=16000, options=options)
    decoder = OpusDecoder()
    decoded = [decoder.decode(packet) for packet in packets]
    assert all(plausible(packet, frame_ms=60) for packet in packets)
    assert {len(samples) for samples in decoded} == {960}
    assert dominant_hz(np.concatenate(decoded)[4000:], rate_hz=16000) == pytest.approx(440, abs=3)


def test_decodes_an_independent_encoder() -> None:
    """ffmpeg's own Opus encoder shares no code with libopus: CELT, 48 kHz, 20 ms."""
    packets = encoded_by_ffmpeg("opus", tone(rate_hz=48000, duration_s=1), rate_hz=48000, options={"strict": "experimental"})
    decoder = OpusDecoder()
    decoded = np.concatenate([decoder.decode(packet) for packet in packets])
    assert all(plausible(packet, frame_ms=20) and packet_duration_ms(packet) == 20 for packet in packets)
    assert len(decoded) == 320 * len(packets)
    assert dominant_hz(decoded[2000:], rate_hz=16000) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("frame_ms", [10, 20, 40, 60])
@pytest.mark.parametrize("rate_hz", [8000, 12000, 16000, 24000, 48000])
def test_check_064_an_independent_decoder_reads_ours(rate_hz: int, frame_ms: int) -> None:
    """ffmpeg's own Opus decoder shares no code with libopus; it works at 48 kHz."""
    encoder = OpusEncoder(sample_rate_hz=rate_hz, frame_ms=frame_ms, bitrate_bps=32000, complexity=0)
    frames = tone(rate_hz=rate_hz, duration_s=1.2).reshape(-1, encoder.frame_samples)
    packets = [encoder.encode(frame) for frame in frames]
    assert {packet_duration_ms(packet) for packet in packets} == {frame_ms}
    assert all(plausible(packet, frame_ms=frame_ms) and len(packet) <= 1200 for packet in packets)

    context: Any = av.CodecContext.create("opus", "r")
    context.extradata = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 0, rate_hz, 0, 0)
    decoded = [frame for packet in packets for frame in context.decode(av.Packet(packet))]
    decoded += context.decode(None)
    samples = np.concatenate([frame.to_ndarray()[0] for frame in decoded])
    assert len(samples) == pytest.approx(1.2 * 48000, abs=48000 * 0.02)  # the decoder keeps back its resampler's delay
    assert dominant_hz(samples[12000:], rate_hz=48000) == pytest.approx(440, abs=3)


def test_concealment_and_error_correction() -> None:
    decoder = OpusDecoder()
    encoder = OpusEncoder(sample_rate_hz=16000, frame_ms=60, application="voip", bitrate_bps=24000, fec=True)
    packets = [encoder.encode(frame) for frame in tone(rate_hz=16000, duration_s=0.6).reshape(-1, 960)]
    for packet in packets[:5]:
        decoder.decode(packet)
    assert len(decoder.recover(packets[6], 960)) == 960
    assert len(decoder.decode(packets[6])) == 960
    assert np.abs(decoder.conceal(960)).max() > 500  # goes on with the tone
    assert len(decoder.conceal(40)) == 40
    for samples in (0, -40, 41, 1960):
        with pytest.raises(ValueError, match="multiple"):
            decoder.conceal(samples)


def test_check_072_dtx_decodes_to_a_frame() -> None:
    decoder = OpusDecoder()
    for packet in (b"\x58", b"\x58\x00", bytes.fromhex("4b03")):
        assert is_dtx(packet)
        assert len(decoder.decode(packet)) == 960
    assert not is_dtx(b"")
    assert not is_dtx(bytes(3))


@pytest.mark.parametrize("packet", [b"", bytes.fromhex("0b00"), b"\x01\x00", bytes(70_000)])
def test_check_072_undecodable_packets(packet: bytes) -> None:
    decoder = OpusDecoder()
    with pytest.raises(OpusError):
        decoder.decode(packet)
    assert len(decoder.decode(b"\x58")) == 960


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=400), max_size=20))
def test_check_072_noise_never_breaks_the_decoder(packets: list[bytes]) -> None:
    decoder = OpusDecoder()
    for packet in packets:
        try:
            assert len(decoder.decode(packet)) == packet_duration_ms(packet) * 16
        except OpusError:
            assert packet  # refused, and that is all


def test_samples_of_one_call_survive_the_next() -> None:
    decoder = OpusDecoder()
    encoder = OpusEncoder(sample_rate_hz=16000, frame_ms=60)
    packets = [encoder.encode(frame) for frame in tone(rate_hz=16000, duration_s=0.12).reshape(-1, 960)]
    decoder.decode(packets[0])
    loud = decoder.decode(packets[1])
    before = loud.copy()
    decoder.reset()
    decoder.decode(b"\x58")
    assert np.array_equal(loud, before)


@pytest.mark.parametrize(
    "samples",
    [np.zeros(1439, np.int16), np.zeros(1441, np.int16), np.zeros((1, 1440), np.int16), np.zeros(1440, np.float32), np.zeros(0, np.int16)],
)
def test_encoder_takes_exactly_one_frame(samples: Any) -> None:
    encoder = OpusEncoder(sample_rate_hz=24000, frame_ms=60, bitrate_bps=32000, complexity=0)
    with pytest.raises(ValueError, match="1440 int16 samples"):
        encoder.encode(samples)


def test_encoder_takes_strided_samples() -> None:
    contiguous, strided = (OpusEncoder(sample_rate_hz=24000, frame_ms=60) for _ in range(2))
    stereo = np.repeat(tone(rate_hz=24000, duration_s=0.06), 2).reshape(-1, 2)
    assert strided.encode(stereo[:, 0]) == contiguous.encode(stereo[:, 0].copy())


def test_no_dtx_and_no_oversize_downlink() -> None:
    quiet = OpusEncoder(sample_rate_hz=24000, frame_ms=60)
    assert all(len(quiet.encode(np.zeros(1440, np.int16))) > 2 for _ in range(40))
    loud = OpusEncoder(sample_rate_hz=48000, frame_ms=60, bitrate_bps=510_000)
    noise = np.random.default_rng(1).integers(-30000, 30000, 2880).astype(np.int16)
    assert all(len(loud.encode(noise)) <= 1200 for _ in range(5))


def test_reset_encoder_starts_afresh() -> None:
    encoder = OpusEncoder(sample_rate_hz=24000, frame_ms=60)
    frame = tone(rate_hz=24000, duration_s=0.06)
    first = encoder.encode(frame)
    assert encoder.encode(frame) != first
    encoder.reset()
    assert encoder.encode(frame) == first


@pytest.mark.parametrize(
    "options",
    [{"sample_rate_hz": 44100}, {"frame_ms": 30}, {"bitrate_bps": 100}, {"complexity": 11}],
)
def test_settings_opus_does_not_have(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Opus|supported"):
        OpusEncoder(**{"sample_rate_hz": 24000, "frame_ms": 60, **options})
    if "sample_rate_hz" in options:
        with pytest.raises(ValueError, match="44100"):
            OpusDecoder(**options)


def test_missing_libopus_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_SYSTEM_NAMES", {sys.platform: "libopus-of-nowhere.so"})
    monkeypatch.setattr(codec, "_bundled_path", lambda: "/nowhere/libopus.so")
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    codec._library.cache_clear()
    try:
        with pytest.raises(OpusUnavailable, match="install the Python package opuslib-next-bundled"):
            OpusDecoder()
    finally:
        codec._library.cache_clear()


def test_the_bundled_copy_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_SYSTEM_NAMES", {sys.platform: "libopus-of-nowhere.so"})
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    codec._library.cache_clear()
    try:
        assert len(OpusDecoder().conceal(960)) == 960
    finally:
        codec._library.cache_clear()


def test_bundled_copy_is_found_where_the_wheel_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    path = codec._bundled_path()
    assert path is not None
    assert path.endswith(("libopus.so", "libopus.dylib", "opus.dll"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert codec._bundled_path() is None


# RFC 6716 §3.1, table 2 and §3.2, by hand: packet, duration
WELL_FORMED = [
    ("58", 60),  # config 11: SILK wide band 60 ms, one empty frame
    ("58aabbcc", 60),
    ("50aa", 40),
    ("08aa", 20),
    ("60aa", 10),  # config 12: hybrid
    ("80aa", 2.5),  # config 16: CELT
    ("98aa", 20),
    ("49aabb", 40),  # code 1: two equal frames of 20 ms
    ("4a01aabb", 40),  # code 2: one byte, then the rest
    ("4a00", 40),
    ("4b03aabbcc", 60),  # code 3: three equal frames of 20 ms
    ("4b8301010a0b0c0d", 60),  # variable lengths 1, 1 and the rest
    ("4b4302aabbcc0000", 60),  # two bytes of padding
    ("4bc3010001aa0a00", 60),  # variable lengths and one byte of padding
    ("5b02aabb", 120),
    ("830caabbccddeeff001122334455", 30),
]
MALFORMED = [
    "",
    "4b",  # no frame count
    "4b00",  # no frames
    "5b03aabbcc",  # 180 ms
    "49aa",  # odd
    "4a",  # no length
    "4a02aa",  # frame is cut off
    "4afc",  # two-byte length is cut off
    "4b03aabb",  # not divisible
    "4b4305aabb",  # more padding than packet
    "4b43",  # padding length is missing
    "4b43ff",
    "4b83",
    "4b830505aa",
]


@pytest.mark.parametrize(("packet", "duration_ms"), WELL_FORMED)
def test_durations_by_hand(packet: str, duration_ms: float) -> None:
    assert packet_duration_ms(bytes.fromhex(packet)) == duration_ms
    assert plausible(bytes.fromhex(packet), frame_ms=None)
    assert plausible(bytes.fromhex(packet), frame_ms=60) is (duration_ms == 60)


@pytest.mark.parametrize("packet", MALFORMED)
def test_malformed_by_hand(packet: str) -> None:
    assert not plausible(bytes.fromhex(packet), frame_ms=None)
    with pytest.raises(OpusError):
        packet_duration_ms(bytes.fromhex(packet))


def test_stereo_is_not_what_was_announced() -> None:
    assert not plausible(bytes.fromhex("5caabb"), frame_ms=60)
    assert packet_duration_ms(bytes.fromhex("5caabb")) == 60


def test_frames_over_1275_bytes_do_not_exist() -> None:
    assert plausible(b"\x58" + bytes(1275), frame_ms=60)
    assert not plausible(b"\x58" + bytes(1276), frame_ms=60)


@settings(deadline=None)
@given(st.one_of(st.binary(min_size=1, max_size=600), st.builds(lambda body: b"\x4b" + body, st.binary(max_size=600))))
@example(b"\x4b\x43" + b"\xff" * 2 + b"\x01" + bytes(512))
def test_structure_is_judged_as_libopus_does(packet: bytes) -> None:
    """libopus's own packet parser is the oracle."""
    lib = codec._library()
    frames, sizes = (ctypes.c_void_p * 48)(), (ctypes.c_int16 * 48)()
    count = lib.opus_packet_parse(packet, len(packet), None, frames, sizes, None)
    if count > 0:
        samples = lib.opus_packet_get_samples_per_frame(packet, 48000)
        assert packet_duration_ms(packet) == count * samples / 48
    else:
        with pytest.raises(OpusError):
            packet_duration_ms(packet)
    assert plausible(packet, frame_ms=None) is (count > 0 and not packet[0] & 4)


def test_noise_is_seldom_plausible() -> None:
    noise = np.random.default_rng(74).integers(0, 256, (20_000, 120)).astype(np.uint8)
    accepted = sum(plausible(row.tobytes(), frame_ms=60) for row in noise)
    assert accepted < 0.02 * len(noise)


# RFC 6716 §4.2.3: voice activity flags, one for each 20 ms, then the LBRR flag, are the first bits of the first frame
@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        ("58f0", True),  # 60 ms: 111 1
        ("58e0", False),  # 60 ms: 111 0
        ("5810", True),  # 60 ms: 000 1
        ("50e0", True),  # 40 ms: 11 1
        ("50c0", False),
        ("48c0", True),  # 20 ms: 1 1
        ("4880", False),
        ("4040", True),  # 10 ms: 0 1
        ("7840", True),  # hybrid 20 ms
        ("80ff", False),  # CELT has none
        ("fcff", False),
        ("49c000", True),  # two frames of 20 ms
        ("4a01c000", True),
        ("4a00c0", False),  # the first frame is empty
        ("4b03c00000", True),
        ("4b830101c00000", True),
        ("4b8300010000", False),
        ("4bc30101010000c000", False),
        ("58", False),
        ("", False),
        ("4b", False),
        ("4a05c0", False),
    ],
)
def test_error_correction_flag_by_hand(packet: str, expected: bool) -> None:
    assert carries_fec(bytes.fromhex(packet)) is expected


@settings(deadline=None, max_examples=400)
@given(st.binary(min_size=1, max_size=64))
def test_error_correction_flag_as_libopus_reads_it(packet: bytes) -> None:
    path = codec._bundled_path()
    lib = ctypes.CDLL(path) if path else None
    if lib is None or not hasattr(lib, "opus_packet_has_lbrr"):  # since libopus 1.5
        pytest.skip("this libopus cannot tell")
    if not packet[0] & 4:  # mono
        assert carries_fec(packet) is (lib.opus_packet_has_lbrr(packet, len(packet)) > 0)


def test_a_lost_packet_comes_back_from_the_next_one() -> None:
    """The error of what the correction gives is far below that of a guess."""
    rng = np.random.default_rng(5)
    pitch = 140 + 60 * np.sin(np.arange(16000 * 2) / 1900)  # something that a guess cannot go on with
    voice = np.sign(np.sin(np.cumsum(2 * np.pi * pitch / 16000))) * 4000 + rng.normal(0, 200, 32000)
    encoder = OpusEncoder(sample_rate_hz=16000, frame_ms=60, application="voip", bitrate_bps=24000, fec=True)
    packets = [encoder.encode(frame) for frame in voice[: 960 * 33].astype(np.int16).reshape(-1, 960)]
    carrying = [number for number in range(5, 33) if carries_fec(packets[number])]
    assert len(carrying) > 10
    errors = {True: 0.0, False: 0.0}
    for number in carrying:
        whole = OpusDecoder()
        expected = [whole.decode(packet) for packet in packets[:number]][-1].astype(np.float64)
        for correction in errors:
            damaged = OpusDecoder()
            for packet in packets[: number - 1]:
                damaged.decode(packet)
            replaced = damaged.recover(packets[number], 960) if correction else damaged.conceal(960)
            errors[correction] += float(np.square(replaced - expected).mean())
    assert errors[True] < 0.5 * errors[False]
