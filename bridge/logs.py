"""The log: structlog and the standard library's ``logging`` end in the same lines.

People on a terminal get readable lines, machines get one JSON object a line; a file, when set, is always JSON and is
rotated by size. Every line carries what :func:`bound` says (device, session, turn). Before a line is written, values
under secret names are masked, transcripts removed unless ``log.transcripts``, control characters stripped, long values
cut; nothing here raises because of what is logged.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import math
import re
import sys
import traceback
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from settings.model import Log
from settings.schema import is_secret_name

MASK = "********"
TRANSCRIPT_FIELDS = frozenset({"text", "heard", "said"})
LONGEST_VALUE = 400
LONGEST_EVENT = 1000
_MOST_ITEMS = 50
_DEEPEST = 4
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_AUTHORIZATION = re.compile(r"(?i)(\bauthorization\W{1,4}\w+|\bbearer)\s+[A-Za-z0-9._~+/=-]{8,}")
_ASSIGNED = re.compile(r"(?i)\b(api[_-]?key|password|passwd|token|secret|nonce)(\s*[=:]\s*)[^\s,;&\"']+")
_URL_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")

# Libraries whose INFO is nobody's news; they are heard when log.level is debug.
_QUIET = ("httpx", "httpx2", "httpcore", "httpcore2", "uvicorn.access")
# At debug this one writes whole requests: what was heard and said.
_NEVER_DEBUG = ("openai",)


def bound(**context: Any) -> AbstractContextManager[None]:
    """Within this block every line of this task and of those it starts carries these facts: device, session, turn."""
    return structlog.contextvars.bound_contextvars(**context)


def configure(config: Log, *, stream: TextIO | None = None, worker: int | None = None) -> None:
    """Set up logging for the process. May be called again: the former handlers are closed and replaced.

    ``stream`` is standard error unless given; with ``worker`` every line names it. Raises OSError when ``log.file`` cannot
    be opened.
    """
    stream = sys.stderr if stream is None else stream
    handlers: list[logging.Handler] = [_StreamHandler(stream)]
    handlers[0].setFormatter(_formatter(config, _renderer(config, stream), worker))
    if config.file is not None:
        config.file.parent.mkdir(parents=True, exist_ok=True)
        rotating = _FileHandler(config.file, maxBytes=config.file_max_bytes, backupCount=config.file_backups, encoding="utf-8")
        rotating.setFormatter(_formatter(config, _json_renderer(), worker))
        handlers.append(rotating)
    root = logging.getLogger()
    for former in [handler for handler in root.handlers if isinstance(handler, _StreamHandler | _FileHandler)]:
        root.removeHandler(former)
        former.close()
    for handler in handlers:
        root.addHandler(handler)
    level = logging.getLevelNamesMapping()[config.level.upper()]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET if level <= logging.DEBUG else logging.WARNING)
    for name in _NEVER_DEBUG:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


# -- handlers ----------------------------------------------------------------------------------------------------------
class _Unbreakable(logging.Handler):
    """A line that cannot be shown is replaced by one that says so; a full disk or a closed terminal does not stop the server."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is the base class's
        error = sys.exc_info()[1]
        if isinstance(error, OSError) or not isinstance(self, logging.StreamHandler):
            return
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self.stream.write(f"A log line of {record.name} could not be written: {type(error).__name__}{self.terminator}")
            self.flush()


class _StreamHandler(_Unbreakable, logging.StreamHandler[TextIO]):
    pass


class _FileHandler(_Unbreakable, logging.handlers.RotatingFileHandler):
    pass


def _formatter(config: Log, renderer: Processor, worker: int | None) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        # lines of other libraries have not passed structlog: they get the context here
        foreign_pre_chain=[structlog.contextvars.merge_contextvars],
        use_get_message=False,
        pass_foreign_args=True,
        processors=[
            *([] if worker is None else [_of_worker(worker)]),
            _positional_arguments,
            _errors(tracebacks=config.tracebacks),
            redaction(transcripts=config.transcripts),
            _stamps,
            renderer,
        ],
    )


def _of_worker(worker: int) -> Processor:
    def process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("worker", worker)
        return event

    return process


def _renderer(config: Log, stream: TextIO) -> Processor:
    terminal = _is_terminal(stream)
    if config.format == "json" or (config.format == "auto" and not terminal):
        return _json_renderer()
    return structlog.dev.ConsoleRenderer(colors=terminal, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback)


def _json_renderer() -> Processor:
    return structlog.processors.JSONRenderer(ensure_ascii=False, default=str)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # a closed or half-made stream
        return False


# -- the chain ---------------------------------------------------------------------------------------------------------
def _positional_arguments(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """``log.info("%s", x)`` keeps working; arguments that do not fit are shown beside the sentence."""
    arguments = event.pop("positional_args", ())
    if arguments:
        try:
            event["event"] = str(event["event"]) % arguments
        except (TypeError, ValueError, KeyError):
            event["arguments"] = arguments
    return event


def _errors(*, tracebacks: bool) -> Processor:
    """``exc_info`` becomes ``error`` (type and sentence) and, when asked for, ``exception`` (the traceback)."""

    def process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        given = event.pop("exc_info", None)
        error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
        if isinstance(error, BaseException):
            event.setdefault("error", error)
            if tracebacks:
                event["exception"] = "".join(traceback.format_exception(error)).rstrip("\n")
        return event

    return process


def _stamps(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Time, level and logger, taken from the record, so that every handler writes the same."""
    record: logging.LogRecord = event.pop("_record")
    event.pop("_from_structlog", None)
    when = datetime.fromtimestamp(record.created, UTC)
    timestamp = f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03d}Z"
    ours = {"timestamp": timestamp, "level": record.levelname.lower(), "logger": record.name, "event": event.pop("event", "")}
    return ours | {name: value for name, value in event.items() if name not in ours}


# -- redaction ---------------------------------------------------------------------------------------------------------
def redaction(*, transcripts: bool) -> Processor:
    """The processor that makes a line fit to be written: see the module's docstring."""

    def process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        safe: EventDict = {name: event[name] for name in ("_record", "_from_structlog") if name in event}
        for name, value in event.items():
            if name in safe or (name in TRANSCRIPT_FIELDS and not transcripts):
                continue
            if name == "event":
                safe[name] = _safe_text(str(value), LONGEST_EVENT)
            elif name == "exception":
                safe[name] = "\n".join(_safe_text(line, LONGEST_EVENT) for line in str(value).split("\n"))
            else:
                safe[_safe_name(name)] = _safe(name, value, transcripts=transcripts, depth=0)
        return safe

    return process


def _safe(name: object, value: Any, *, transcripts: bool, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if is_secret_name(str(name)):
        return MASK
    if isinstance(value, dict | list | tuple | set | frozenset):
        return _safe_collection(name, value, transcripts=transcripts, depth=depth)
    return value if type(value) is int else _safe_scalar(value)


def _safe_scalar(value: Any) -> Any:
    match value:
        case float() if math.isfinite(value):
            return value
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case BaseException():
            return _safe_text(f"{type(value).__name__}: {value}", LONGEST_VALUE)
        case _:
            return _safe_text(str(value), LONGEST_VALUE)


def _safe_collection(name: object, value: Any, *, transcripts: bool, depth: int) -> Any:
    """Nested values, bounded in depth and number."""
    if depth >= _DEEPEST:
        return f"<{len(value)} items>"
    if isinstance(value, dict):
        return {
            _safe_name(key): _safe(key, item, transcripts=transcripts, depth=depth + 1)
            for key, item in list(value.items())[:_MOST_ITEMS]
            if transcripts or key not in TRANSCRIPT_FIELDS
        }
    return [_safe(name, item, transcripts=transcripts, depth=depth + 1) for item in list(value)[:_MOST_ITEMS]]


def _safe_name(name: object) -> str:
    return _UNPRINTABLE.sub("?", str(name))[:64]


def _safe_text(text: str, longest: int) -> str:
    """Printable, without credentials that stand in the text itself, cut to ``longest`` characters."""
    text = _UNPRINTABLE.sub(" ", text[: longest * 4])
    text = _AUTHORIZATION.sub(rf"\1 {MASK}", text)
    text = _ASSIGNED.sub(rf"\1\2{MASK}", text)
    text = _URL_USER.sub(MASK, text)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
