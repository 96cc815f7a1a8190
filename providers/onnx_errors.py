"""What onnxruntime raises, in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from providers.base import ProviderUnavailable


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
