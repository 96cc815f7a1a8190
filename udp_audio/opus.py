"""Opus: libopus through ctypes, and what can be told from a packet without decoding it.

``ctypes.CDLL`` releases the GIL during a call, so decoders and encoders run in parallel in worker threads. One decoder or
encoder belongs to one stream and must not be used by two threads at once.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from udp_audio.errors import OpusError, OpusUnavailable

Pcm = npt.NDArray[np.int16]
"""One-dimensional mono samples."""

SAMPLE_RATES_HZ: Final = (8000, 12000, 16000, 24000, 48000)
FRAMES_MS: Final = (10, 20, 40, 60)
"""Frame durations of the encoder; all that firmware accepts and libopus offers for speech."""
MAX_PACKET_BYTES: Final = 1200
"""What the encoder produces at most: fits the datagram bound with its header."""

_MAX_FRAME_BYTES = 1275  # RFC 6716 §3.4, R2
_MAX_PACKET_US = 120_000  # R5
_MAX_INPUT_BYTES = 65_535

_OK = 0
_APPLICATIONS: Final = {"voip": 2048, "audio": 2049}
_SIGNAL_VOICE = 3001
_RESET_STATE = 4028
_SET_BITRATE = 4002
_SET_VBR = 4006
_SET_COMPLEXITY = 4010
_SET_INBAND_FEC = 4012
_SET_PACKET_LOSS_PERC = 4014
_SET_DTX = 4016
_FEC_LOSS_PERCENT = 20
"""What the encoder is told to expect: for a loss of 0 % it adds no error correction."""
_SET_SIGNAL = 4024


def _frame_durations_us() -> tuple[int, ...]:
    """Duration of one frame for each of the 256 TOC bytes (RFC 6716 §3.1, table 2)."""
    silk, hybrid, celt = (10_000, 20_000, 40_000, 60_000), (10_000, 20_000), (2_500, 5_000, 10_000, 20_000)
    configs = silk * 3 + hybrid * 2 + celt * 4
    return tuple(configs[toc >> 3] for toc in range(256))


_FRAME_US: Final = _frame_durations_us()
_STEREO = 0x04
_FIRST_CELT_CONFIG = 16


def plausible(opus: bytes, *, frame_ms: int | None) -> bool:
    """Whether a plaintext can be the mono Opus packet that was announced; noise passes in about one case of a hundred.

    The TOC byte says mono, the lengths agree with each other (RFC 6716 §3.2, §3.4), and the packet lasts exactly
    ``frame_ms`` (any duration when None). Packets of 1 or 2 bytes (DTX) pass by the same rules. Never raises.
    """
    if not opus or opus[0] & _STEREO:
        return False
    duration_us = _FRAME_US[opus[0]] if not opus[0] & 3 and len(opus) <= _MAX_FRAME_BYTES + 1 else _duration_us(opus)
    return duration_us == frame_ms * 1000 if frame_ms is not None else duration_us > 0


def packet_duration_ms(opus: bytes) -> float:
    """How long a packet lasts (2.5 … 120 ms). Raises OpusError if it is malformed (RFC 6716 §3.4)."""
    duration_us = _duration_us(opus)
    if not duration_us:
        raise OpusError("malformed Opus packet")
    return duration_us / 1000


def is_dtx(opus: bytes) -> bool:
    """Whether this is a packet of discontinuous transmission: a TOC byte and at most a frame count, no audio."""
    return 1 <= len(opus) <= 2


def carries_fec(opus: bytes) -> bool:
    """Whether a packet carries error correction for the one before it: the LBRR flag of its first SILK frame.

    RFC 6716 §4.2.3, §4.2.4: the header bits of the SILK layer are the first bits of the first Opus frame, one voice activity
    flag for each 20 ms, then the LBRR flag. False for CELT, which has none, and for malformed packets. Never raises.
    """
    if not opus or opus[0] >> 3 >= _FIRST_CELT_CONFIG or opus[0] & _STEREO:
        return False
    start, end = _first_frame(opus)
    if start >= end:
        return False
    silk_frames = max(1, _FRAME_US[opus[0]] // 20_000)
    return bool(opus[start] >> (7 - silk_frames) & 1)


def _first_frame(opus: bytes) -> tuple[int, int]:
    """Where the first frame begins and ends; empty if the packet is malformed (RFC 6716 §3.2)."""
    if not _duration_us(opus):
        return 0, 0
    match opus[0] & 3:
        case 0:
            return 1, len(opus)
        case 1:
            return 1, 1 + (len(opus) - 1) // 2
        case 2:
            length, used = _frame_length(opus, 1)
            return 1 + used, 1 + used + length
        case _:
            start, end = _without_padding(opus)
            if not opus[1] & 0x80:
                return start, start + (end - start) // (opus[1] & 0x3F)
            count = opus[1] & 0x3F
            length, position = end - start, start
            for number in range(count - 1):
                coded, used = _frame_length(opus, position)
                position += used
                length = coded if number == 0 else length
            return position, position + length


def _duration_us(opus: bytes) -> int:
    """Duration of a well-formed packet, 0 of any other."""
    if not opus:
        return 0
    frame_us = _FRAME_US[opus[0]]
    body = len(opus) - 1
    match opus[0] & 3:
        case 0:
            return frame_us if body <= _MAX_FRAME_BYTES else 0
        case 1:
            return frame_us * 2 if body % 2 == 0 and body // 2 <= _MAX_FRAME_BYTES else 0
        case 2:
            first, used = _frame_length(opus, 1)
            second = body - used - first
            return frame_us * 2 if used and 0 <= second <= _MAX_FRAME_BYTES else 0
        case _:
            return _duration_of_many_us(opus, frame_us)


def _duration_of_many_us(opus: bytes, frame_us: int) -> int:
    """Code 3: a frame count, optional padding, equal or individual lengths (RFC 6716 §3.2.5)."""
    count = opus[1] & 0x3F if len(opus) > 1 else 0
    if not count or count * frame_us > _MAX_PACKET_US:
        return 0
    position, end = _without_padding(opus)
    if opus[1] & 0x80:
        for _ in range(count - 1):
            length, used = _frame_length(opus, position)
            if not used:
                return 0
            position += used
            end -= length
        last, rest = end - position, 0
    else:
        last, rest = divmod(end - position, count)
    return count * frame_us if 0 <= last <= _MAX_FRAME_BYTES and not rest else 0


def _without_padding(opus: bytes) -> tuple[int, int]:
    """Where the body of a code 3 packet begins and, its padding taken off, ends; the end is before the beginning if cut off."""
    position, end = 2, len(opus)
    padded = bool(opus[1] & 0x40)
    while padded:
        if position >= len(opus):
            return position, -1
        byte = opus[position]
        position += 1
        end -= 254 if byte == 255 else byte
        padded = byte == 255
    return position, end


def _frame_length(opus: bytes, position: int) -> tuple[int, int]:
    """A coded frame length and the bytes it takes, (0, 0) if it is cut off (RFC 6716 §3.2.1)."""
    if position >= len(opus):
        return 0, 0
    first = opus[position]
    if first < 252:
        return first, 1
    if position + 1 >= len(opus):
        return 0, 0
    return opus[position + 1] * 4 + first, 2


class OpusDecoder:
    """Decodes one mono stream to 16-bit samples at ``sample_rate_hz``, whatever rate it was encoded at."""

    def __init__(self, *, sample_rate_hz: int = 16000) -> None:
        """Raises ValueError for a rate Opus does not have, OpusUnavailable without libopus."""
        _require(sample_rate_hz in SAMPLE_RATES_HZ, f"Opus has no sample rate of {sample_rate_hz} Hz")
        self._lib = _library()
        self.sample_rate_hz = sample_rate_hz
        self._state = ctypes.create_string_buffer(self._lib.opus_decoder_get_size(1))
        self._pcm = np.zeros(sample_rate_hz * _MAX_PACKET_US // 1_000_000, dtype=np.int16)
        self._pcm_address = self._pcm.ctypes.data
        self._check(self._lib.opus_decoder_init(self._state, sample_rate_hz, 1))

    def decode(self, opus: bytes) -> Pcm:
        """The samples of one packet. Raises OpusError if libopus refuses it; the next packet can be decoded all the same."""
        return self._decode(opus, capacity=len(self._pcm), fec=False)

    def conceal(self, samples: int) -> Pcm:
        """Exactly ``samples`` samples (a multiple of 2.5 ms, at most 120 ms) in place of a lost packet."""
        self._require_duration(samples)
        return self._run(None, 0, samples, fec=False)

    def recover(self, following: bytes, samples: int) -> Pcm:
        """A lost packet of ``samples`` samples from the forward error correction in the packet after it.

        Where that holds none, the loss is concealed. ``following`` has to be decoded afterwards as usual.
        """
        self._require_duration(samples)
        return self._decode(following, capacity=samples, fec=True)

    def reset(self) -> None:
        """Forgets the stream: after a discontinuity."""
        self._check(self._lib.opus_decoder_ctl(self._state, _RESET_STATE))

    def _decode(self, opus: bytes, *, capacity: int, fec: bool) -> Pcm:
        if not 1 <= len(opus) <= _MAX_INPUT_BYTES:  # libopus takes an empty packet for a loss
            raise OpusError(f"an Opus packet cannot have {len(opus)} bytes")
        return self._run(opus, len(opus), capacity, fec=fec)

    def _run(self, opus: bytes | None, size: int, capacity: int, *, fec: bool) -> Pcm:
        count = self._lib.opus_decode(self._state, opus, size, self._pcm_address, capacity, int(fec))
        return self._pcm[: self._check(count)].copy()

    def _require_duration(self, samples: int) -> None:
        unit = self.sample_rate_hz // 400
        _require(0 < samples <= len(self._pcm) and samples % unit == 0, f"{samples} samples are not a multiple of 2.5 ms up to 120 ms")

    def _check(self, result: int) -> int:
        return _checked(self._lib, result)


class OpusEncoder:
    """Encodes mono 16-bit samples, one frame at a time: variable bit rate, no DTX."""

    def __init__(
        self,
        *,
        sample_rate_hz: int,
        frame_ms: int,
        bitrate_bps: int = 32000,
        complexity: int = 3,
        application: Literal["audio", "voip"] = "audio",
        fec: bool = False,
    ) -> None:
        """Raises ValueError for settings Opus does not have, OpusUnavailable without libopus.

        ``fec`` adds in-band error correction where the codec's mode allows it; stock devices do not use it.
        """
        _require(sample_rate_hz in SAMPLE_RATES_HZ, f"Opus has no sample rate of {sample_rate_hz} Hz")
        _require(frame_ms in FRAMES_MS, f"frames of {frame_ms} ms are not supported")
        _require(6000 <= bitrate_bps <= 510_000, f"Opus has no bit rate of {bitrate_bps} bit/s")
        _require(0 <= complexity <= 10, f"Opus has no complexity {complexity}")
        self._lib = _library()
        self.sample_rate_hz = sample_rate_hz
        self.frame_ms = frame_ms
        self.frame_samples = sample_rate_hz * frame_ms // 1000
        self._state = ctypes.create_string_buffer(self._lib.opus_encoder_get_size(1))
        self._packet = ctypes.create_string_buffer(MAX_PACKET_BYTES)
        self._check(self._lib.opus_encoder_init(self._state, sample_rate_hz, 1, _APPLICATIONS[application]))
        for request, value in (
            (_SET_BITRATE, bitrate_bps),
            (_SET_VBR, 1),
            (_SET_COMPLEXITY, complexity),
            (_SET_SIGNAL, _SIGNAL_VOICE),
            (_SET_DTX, 0),
            (_SET_INBAND_FEC, int(fec)),
            (_SET_PACKET_LOSS_PERC, _FEC_LOSS_PERCENT if fec else 0),
        ):
            self._check(self._lib.opus_encoder_ctl(self._state, request, ctypes.c_int(value)))

    def encode(self, samples: Pcm) -> bytes:
        """One packet of at most 1200 bytes from exactly one frame of int16 samples; any other shape or type is a ValueError."""
        _require(
            samples.dtype == np.int16 and samples.shape == (self.frame_samples,),
            f"the encoder takes {self.frame_samples} int16 samples, not {samples.dtype} of shape {samples.shape}",
        )
        frame = np.ascontiguousarray(samples)  # kept alive during the call
        size = self._check(self._lib.opus_encode(self._state, frame.ctypes.data, self.frame_samples, self._packet, MAX_PACKET_BYTES))
        return ctypes.string_at(self._packet, size)

    def reset(self) -> None:
        """Forgets the stream: before unrelated speech."""
        self._check(self._lib.opus_encoder_ctl(self._state, _RESET_STATE))

    def _check(self, result: int) -> int:
        return _checked(self._lib, result)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _checked(lib: ctypes.CDLL, result: int) -> int:
    if result < _OK:
        raise OpusError(lib.opus_strerror(result).decode("ascii", "replace"), code=result)
    return result


def require_library() -> None:
    """Load libopus now. Raises OpusUnavailable, whose text says what to install."""
    _library()


@functools.cache
def _library() -> ctypes.CDLL:
    """libopus: the system's when it has one, else the copy in the opuslib-next-bundled wheel. Raises OpusUnavailable."""
    reason = "not found"
    for path in _candidates():
        try:
            return _with_prototypes(ctypes.CDLL(path))
        except (OSError, AttributeError) as error:  # not loadable, or not libopus
            reason = str(error)
    raise OpusUnavailable(
        f"libopus cannot be loaded ({reason}): install the Python package opuslib-next-bundled, "
        "or libopus of the system (Debian: apt install libopus0, macOS: brew install opus)"
    )


_SYSTEM_NAMES = {"darwin": "libopus.0.dylib", "win32": "opus.dll"}


def _candidates() -> Iterator[str]:
    yield _SYSTEM_NAMES.get(sys.platform, "libopus.so.0")
    if (bundled := _bundled_path()) is not None:
        yield bundled
    # slow: it asks ldconfig or a compiler
    if (found := ctypes.util.find_library("opus")) is not None:
        yield found


def _bundled_path() -> str | None:
    """Where the wheel put libopus; the wheel's own Python code is not imported."""
    spec = importlib.util.find_spec("opuslib_next")
    if spec is None or spec.origin is None:
        return None
    name = {"darwin": "libopus.dylib", "win32": "opus.dll"}.get(sys.platform, "libopus.so")
    path = Path(spec.origin).parent / "_native" / name
    return str(path) if path.exists() else None


def _with_prototypes(lib: ctypes.CDLL) -> ctypes.CDLL:
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    # the two ctl functions are variadic: only the fixed parameters may be declared
    for name, arguments in {
        "opus_decoder_get_size": [integer],
        "opus_decoder_init": [pointer, ctypes.c_int32, integer],
        "opus_decode": [pointer, ctypes.c_char_p, ctypes.c_int32, pointer, integer, integer],
        "opus_decoder_ctl": [pointer, integer],
        "opus_encoder_get_size": [integer],
        "opus_encoder_init": [pointer, ctypes.c_int32, integer, integer],
        "opus_encode": [pointer, pointer, integer, pointer, ctypes.c_int32],
        "opus_encoder_ctl": [pointer, integer],
    }.items():
        function = getattr(lib, name)
        function.argtypes = arguments
        function.restype = ctypes.c_int
    lib.opus_strerror.argtypes = [integer]
    lib.opus_strerror.restype = ctypes.c_char_p
    return lib
