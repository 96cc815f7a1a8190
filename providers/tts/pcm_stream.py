"""Raw samples or a WAV file, arriving in pieces of any length, as 16-bit mono PCM. Pure."""

from __future__ import annotations

import re
import struct
from typing import Final

import numpy as np

from providers.base import Pcm

_EMPTY: Final[Pcm] = np.empty(0, dtype=np.int16)
_RATE: Final = re.compile(r"rate=\"?([0-9]{4,6})", re.IGNORECASE)
_MAX_HEADER_BYTES: Final = 65536
_UNKNOWN_SIZE: Final = 0x7FFFFF00
"""Writers of streams cannot know the length and write 0 or something near the maximum."""
_PCM, _EXTENSIBLE = 1, 0xFFFE
_FOREIGN: Final = {b"ID3": "MP3", b"OggS": "Ogg", b"fLaC": "FLAC", b"\x1a\x45\xdf\xa3": "WebM", b'{"': "JSON"}
_FOREIGN_TYPES: Final = ("text/", "application/json", "audio/mpeg", "audio/mp3", "audio/ogg", "audio/flac", "audio/aac", "audio/webm")


class UnknownAudioError(ValueError):
    """The stream is no raw PCM and no 16-bit PCM WAV; the text says what it is."""


class PcmStream:
    """Decodes one stream. ``sample_rate_hz`` is right as soon as :meth:`feed` has returned samples."""

    def __init__(self, *, sample_rate_hz: int, content_type: str = "") -> None:
        """``sample_rate_hz`` holds for raw samples when ``content_type`` names no rate (``audio/L16; rate=16000``).

        Raises UnknownAudioError when the content type is that of something else.
        """
        if content_type.strip().lower().startswith(_FOREIGN_TYPES):
            raise UnknownAudioError(f"{content_type.split(';', maxsplit=1)[0].strip()[:60]} instead of raw PCM")
        named = _RATE.search(content_type)
        self.sample_rate_hz = int(named[1]) if named else sample_rate_hz
        self._channels = 1
        self._buffer = bytearray()
        self._in_header = True
        self._remaining: int | None = None

    def feed(self, data: bytes) -> Pcm:
        """The samples completed by ``data``; may be empty. Raises UnknownAudioError."""
        self._buffer += data
        if self._in_header and not self._read_header():
            return _EMPTY
        if self._remaining is not None and len(self._buffer) > self._remaining:
            del self._buffer[self._remaining :]  # what follows the samples in a WAV file is not sound
        whole = len(self._buffer) - len(self._buffer) % (2 * self._channels)
        samples = np.frombuffer(bytes(self._buffer[:whole]), dtype="<i2").astype(np.int16)
        del self._buffer[:whole]
        if self._remaining is not None:
            self._remaining -= whole
        if self._channels == 1:
            return samples
        mixed: Pcm = samples.reshape(-1, self._channels).mean(axis=1).astype(np.int16)
        return mixed

    def _read_header(self) -> bool:
        """True when samples come next. A header that is not whole yet stays in the buffer."""
        head = bytes(self._buffer[:12])
        for magic, name in _FOREIGN.items():
            if head.startswith(magic):
                raise UnknownAudioError(f"{name} instead of raw PCM")
        if head[:4] != b"RIFF"[: len(head)]:
            self._in_header = False
            return True
        if len(head) < 12:
            return False
        if head[8:] != b"WAVE":
            raise UnknownAudioError("a RIFF file that is not WAVE")
        return self._read_chunks()

    def _read_chunks(self) -> bool:
        """Walk the chunks after ``RIFF size WAVE`` (Microsoft RIFF MCI specification) up to the samples."""
        position, formatted = 12, False
        while len(self._buffer) >= position + 8:
            name, size = struct.unpack_from("<4sI", self._buffer, position)
            if name == b"data":
                if not formatted:
                    raise UnknownAudioError("a WAV file whose samples come before their format")
                self._remaining = None if size == 0 or size >= _UNKNOWN_SIZE else size
                self._in_header = False
                del self._buffer[: position + 8]
                return True
            if position + 8 + size > _MAX_HEADER_BYTES:
                raise UnknownAudioError("a WAV file without samples at its beginning")
            if len(self._buffer) < position + 8 + size:
                return False
            if name == b"fmt ":
                self._read_format(bytes(self._buffer[position + 8 : position + 8 + size]))
                formatted = True
            position += 8 + size + size % 2
        return False

    def _read_format(self, chunk: bytes) -> None:
        if len(chunk) < 16:
            raise UnknownAudioError("a WAV file with a broken format")
        tag, channels, rate_hz, _bytes_per_s, _block, bits = struct.unpack_from("<HHIIHH", chunk)
        if tag == _EXTENSIBLE and len(chunk) >= 26:
            tag = struct.unpack_from("<H", chunk, 24)[0]
        if tag != _PCM or bits != 16 or not 1 <= channels <= 8 or not 4000 <= rate_hz <= 192000:
            raise UnknownAudioError(f"a WAV file of format {tag}, {bits} bits, {channels} channels, {rate_hz} Hz; 16-bit PCM is needed")
        self._channels, self.sample_rate_hz = channels, rate_hz
