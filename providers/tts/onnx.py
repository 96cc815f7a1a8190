"""Voices' networks on onnxruntime, and its errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from providers.base import ProviderUnavailable


def session(file: Path, *, provider: str, threads: int = 0) -> Any:
    """An inference session on the CPU; ``threads`` 0 takes as many as there are cores. Raises ProviderUnavailable."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Idle threads that spin would take the cores from the other stages of the turn, and win nothing (measured).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with engine_errors(f"{file} cannot be loaded", provider=provider):
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


@contextmanager
def engine_errors(sentence: str, *, provider: str) -> Iterator[None]:
    """Within it, what onnxruntime raises becomes ProviderUnavailable: ``sentence`` and the reason."""
    # Its exceptions have no base of their own.
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    raised = (
        state.EPFail,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
        RuntimeError,
        ValueError,
        OSError,
    )
    try:
        yield
    except raised as error:
        reason = " ".join(str(error).split())[:300]
        raise ProviderUnavailable(f"{sentence}: {reason}", provider=provider) from error
