"""Opus as the firmware uses it: encoder for AUDIO, complexity 0, VBR, DTX, automatic bit rate; decoder to 24 kHz mono.

A thin binding of libopus of its own, so that a fault of the server's codec cannot cancel out here.
Request numbers are those of ``opus_defines.h``; packet layout is RFC 6716 §3.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pcm: TypeAlias = NDArray[np.int16]

MICROPHONE_RATE_HZ: Final = 16_000
SPEAKER_RATE_HZ: Final = 24_000
_MAX_PACKET_BYTES: Final = 1276
_MAX_DECODED_MS: Final = 120
_APPLICATION_AUDIO: Final = 2049
_SET_COMPLEXITY: Final = 4010
_SET_DTX: Final = 4016


class OpusError(Exception):
    """libopus refused; ``code`` is its negative error number."""

    def __init__(self, operation: str, code: int) -> None:
        super().__init__(f"libopus {operation} failed with {code}")
        self.code = code


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """libopus of the wheel that the project depends on, else the system's."""
    location = ctypes.util.find_library("opus")
    package = importlib.util.find_spec("opuslib_next")
    if package is not None and package.origin is not None:
        native = Path(package.origin).parent / "_native"
        location = next((str(path) for path in sorted(native.glob("*opus*"))), location)
    if location is None:
        raise OSError("libopus was not found: install opuslib-next-bundled or the system package libopus0")
    library = ctypes.CDLL(location)
    library.opus_encoder_create.restype = ctypes.c_void_p
    library.opus_encoder_create.argtypes = [ctypes.c_int32, ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_int)]
    library.opus_encoder_destroy.argtypes = [ctypes.c_void_p]
    # what exceeds argtypes is passed as variadic: on Apple silicon that is another calling convention
    library.opus_encoder_ctl.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.opus_encode.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int32]
    library.opus_decoder_create.restype = ctypes.c_void_p
    library.opus_decoder_create.argtypes = [ctypes.c_int32, ctypes.c_int, ctypes.POINTER(ctypes.c_int)]
    library.opus_decoder_destroy.argtypes = [ctypes.c_void_p]
    library.opus_decode.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    return library


class Encoder:
    """Microphone encoder: 16 kHz mono, one packet a frame. Not for two threads at once."""

    def __init__(self, frame_ms: int) -> None:
        self._state: int | None = None
        self._library = _library()
        error = ctypes.c_int()
        self.frame_samples = MICROPHONE_RATE_HZ * frame_ms // 1000
        self._state = self._library.opus_encoder_create(MICROPHONE_RATE_HZ, 1, _APPLICATION_AUDIO, ctypes.byref(error))
        if error.value or self._state is None:
            raise OpusError("encoder_create", error.value)
        self._packet = ctypes.create_string_buffer(_MAX_PACKET_BYTES)
        for request, value in ((_SET_COMPLEXITY, 0), (_SET_DTX, 1)):
            code = self._library.opus_encoder_ctl(self._state, request, ctypes.c_int32(value))
            if code:
                raise OpusError("encoder_ctl", code)

    def encode(self, frame: Pcm) -> bytes:
        """One packet of exactly ``frame_samples`` samples; 1 or 2 bytes when DTX has nothing to say."""
        if frame.shape != (self.frame_samples,):
            raise ValueError(f"a frame has {self.frame_samples} samples, not {frame.shape}")
        samples = np.ascontiguousarray(frame, dtype=np.int16)
        written = self._library.opus_encode(self._state, samples.ctypes.data, self.frame_samples, self._packet, _MAX_PACKET_BYTES)
        if written < 0:
            raise OpusError("encode", written)
        return self._packet.raw[:written]

    def __del__(self) -> None:
        if self._state is not None:
            self._library.opus_encoder_destroy(self._state)


class Decoder:
    """Speaker decoder to 24 kHz mono, whatever rate was encoded. Not for two threads at once."""

    def __init__(self) -> None:
        self._state: int | None = None
        self._library = _library()
        error = ctypes.c_int()
        self._state = self._library.opus_decoder_create(SPEAKER_RATE_HZ, 1, ctypes.byref(error))
        if error.value or self._state is None:
            raise OpusError("decoder_create", error.value)
        self._pcm = np.zeros(SPEAKER_RATE_HZ * _MAX_DECODED_MS // 1000, dtype=np.int16)

    def decode(self, packet: bytes) -> Pcm:
        """The samples of one packet, in an array of their own. Raises :class:`OpusError` for what is not Opus."""
        samples = self._library.opus_decode(self._state, packet, len(packet), self._pcm.ctypes.data, len(self._pcm), 0)
        if samples < 0:
            raise OpusError("decode", samples)
        return self._pcm[:samples].copy()

    def __del__(self) -> None:
        if self._state is not None:
            self._library.opus_decoder_destroy(self._state)


_SILK_MS: Final = (10.0, 20.0, 40.0, 60.0)
_HYBRID_MS: Final = (10.0, 20.0)
_CELT_MS: Final = (2.5, 5.0, 10.0, 20.0)


def packet_ms(packet: bytes) -> float | None:
    """Duration of an Opus packet from its first bytes (RFC 6716 §3.1, §3.2); None when they cannot be Opus."""
    if not packet:
        return None
    config = packet[0] >> 3
    if config < 12:
        frame_ms = _SILK_MS[config % 4]
    elif config < 16:
        frame_ms = _HYBRID_MS[config % 2]
    else:
        frame_ms = _CELT_MS[config % 4]
    code = packet[0] & 3
    frames = (1, 2, 2, packet[1] & 0x3F if len(packet) > 1 else 0)[code]
    duration_ms = frames * frame_ms
    return duration_ms if 0 < duration_ms <= _MAX_DECODED_MS else None
