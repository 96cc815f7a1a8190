"""Failures that the operator can do something about, and the sentence each deserves.

::

    OperatorError                 what happened and what to do; the command line shows it without a traceback
"""

from __future__ import annotations

import errno
from types import MappingProxyType

_OS_ADVICE = MappingProxyType(
    {
        errno.EADDRINUSE: "the port is taken: stop the other program, or choose another (--http-port, --mqtt-port, --udp-port; 0: any)",
        errno.EADDRNOTAVAIL: "this machine has no such address: set http.host, mqtt.host and udp.host to one of its own, or to 0.0.0.0",
        errno.EACCES: "permission denied: ports below 1024 and foreign directories need rights; choose another port or --data-dir",
        errno.EPERM: "the system does not permit it: choose another port or --data-dir",
        errno.EROFS: "the file system is read-only: choose a --data-dir that can be written",
        errno.ENOSPC: "the disk is full: make room, or choose a --data-dir on another disk",
        errno.EDQUOT: "the disk quota is used up: make room, or choose a --data-dir on another disk",
        errno.EMFILE: "too many open files: raise the limit (ulimit -n), each device needs one",
        errno.ECONNREFUSED: "nobody answers there: is the server running, and is the address right?",
    }
)

_OURS = frozenset({"bridge", "iot", "mqtt_control", "ota", "providers", "settings", "udp_audio"})

# Known by name, so that this module imports none of the packages that define them.
_ADVICE_BY_NAME = MappingProxyType(
    {
        "SettingsError": "",
        "StoreError": "",
        "ImageError": "",
        "ListenError": "",
        "ModelMissing": "",
        "ProviderRejected": "check the key, the model name and the quota in the provider's settings (docs/settings.md)",
        "ProviderTimeout": "try again, or raise timeout_s in the provider's settings",
        "ProviderUnavailable": "check the provider's settings (`xiaozhi-bridge config show`) and that its server runs",
        "ProviderError": "check the provider's settings: `xiaozhi-bridge config show`",
        "OpusUnavailable": "run `make run` again (a Python package brings libopus), or install libopus with the system's package manager",
    }
)


class OperatorError(Exception):
    """A failure in the operator's hands. ``message`` says what happened, ``advice`` what to do about it."""

    def __init__(self, message: str, *, advice: str = "", exit_code: int = 1) -> None:
        super().__init__(f"{message}\n{advice}" if advice else message)
        self.message = message
        self.advice = advice
        self.exit_code = exit_code


def explain(error: BaseException) -> OperatorError | None:
    """The error as one for the operator; None when it is not one that an operator can act on (a bug).

    The only error of a task group stands for the group.
    """
    if isinstance(error, OperatorError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return explain(error.exceptions[0]) if len(error.exceptions) == 1 else None
    for kind in type(error).__mro__:
        if kind.__name__ in _ADVICE_BY_NAME and kind.__module__.partition(".")[0] in _OURS:
            return OperatorError(str(error), advice=_ADVICE_BY_NAME[kind.__name__])
    if isinstance(error, OSError) and (advice := _OS_ADVICE.get(error.errno or 0)):
        return OperatorError(f"{error.filename}: {error.strerror}" if error.filename else str(error), advice=advice)
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) and error.filename:
        return OperatorError(f"{error.filename}: {error.strerror}")
    return None
