"""How far a transfer of many megabytes is, for a person who waits."""

from __future__ import annotations

from typing import TextIO


class TransferProgress:
    """Called with (file name, bytes so far, bytes in all): one moving line on a terminal, else a line each quarter."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._moving = stream.isatty()
        self._shown: dict[str, int] = {}

    def __call__(self, name: str, done_bytes: int, total_bytes: int) -> None:
        percent = 100 if total_bytes <= 0 else min(100, 100 * done_bytes // total_bytes)
        step = percent if self._moving else percent // 25 * 25
        if step == self._shown.get(name, 0):
            return
        self._shown[name] = step
        text = f"{name}: {step:3d} % of {total_bytes / 1e6:.0f} MB"
        end = "\n" if step == 100 or not self._moving else ""
        self._stream.write(f"\r\x1b[K{text}{end}" if self._moving else f"{text}\n")
        self._stream.flush()
