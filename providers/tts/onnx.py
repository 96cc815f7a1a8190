"""Voices' networks on onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from providers.onnx_errors import engine_errors

__all__ = ["engine_errors", "session"]


def session(file: Path, *, provider: str, threads: int = 0) -> Any:
    """An inference session on the CPU; ``threads`` 0 takes as many as there are cores. Raises ProviderUnavailable."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Idle threads that spin would take the cores from the other stages of the turn, and win nothing (measured).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with engine_errors(f"{file} cannot be loaded", provider=provider):
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
