"""Logs for the operator: one JSON object a line, with the id of the request it belongs to; on a
terminal the same, shorter and in colour."""

import contextvars
import logging
import sys
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)


@dataclass(slots=True)
class Course:
    """How a request came to its answer, for its line in the log."""

    ksef_calls: int = 0
    source: str = ""  # of an answer that is kept: store, fresh, earlier


course: contextvars.ContextVar[Course | None] = contextvars.ContextVar("course", default=None)

_log = logging.getLogger("ksef_proxy")


def configure(level: str) -> None:
    """Send the log of this process to standard error, at `level` and above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter())
    _log.handlers = [handler]
    _log.propagate = False
    _log.setLevel(level)


def formatter() -> logging.Formatter:
    """JSON, or lines for a person where standard error is a terminal."""
    return _TerminalLines() if sys.stderr.isatty() else _JsonLines()


def info(event: str, **fields: Any) -> None:
    """Log an event of ordinary work. Only what the caller names is logged."""
    _log.info(event, extra={"fields": fields})


def warning(event: str, **fields: Any) -> None:
    """Log what an operator may want to look at."""
    _log.warning(event, extra={"fields": fields})


def exception(event: str, **fields: Any) -> None:
    """Log a failure of our own, with where it happened."""
    _log.exception(event, extra={"fields": fields})


def ksef_called() -> None:
    """A call was sent to KSeF for the request that this thread works on, if any."""
    if noted := course.get():
        noted.ksef_calls += 1


def answered_from(source: str) -> None:
    """The answer is kept (`store`), new (`fresh`), or kept because a new one could not be had just
    now (`earlier`). What is said last holds."""
    if noted := course.get():
        noted.source = source


def masked_nip(nip: str) -> str:
    """A NIP as logs may hold it: enough to tell two companies apart, too little to name one."""
    return f"{nip[:3]}*****{nip[-2:]}"


def _places(error: BaseException | None) -> str:
    """Where it happened, from the first cause on. An exception's own words are left out: they may
    quote what was worked on, a link, a row, a token."""
    if error is None:
        return ""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    told = "Traceback\n" + "".join(traceback.format_tb(error.__traceback__))
    return f"{_places(cause)}{told}{type(error).__module__}.{type(error).__qualname__}\n"


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if identifier := request_id.get():
            line["requestId"] = identifier
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = _places(record.exc_info[1])
        return orjson.dumps(line, default=str).decode()


_DIM, _RED, _YELLOW, _PLAIN = "\033[2m", "\033[31m", "\033[33m", "\033[0m"
_COLOURS = {logging.WARNING: _YELLOW, logging.ERROR: _RED, logging.CRITICAL: _RED}


class _TerminalLines(logging.Formatter):
    """`12:00:00 request GET /status 200 ms=1.2 …`: what tells itself goes without its name."""

    def format(self, record: logging.LogRecord) -> str:
        fields = dict(getattr(record, "fields", {}))
        plain = [fields.pop(name) for name in ("method", "route", "status") if name in fields]
        words = [record.getMessage(), *map(str, plain)]
        words += [f"{_DIM}{name}={_PLAIN}{value}" for name, value in fields.items()]
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        colour = _COLOURS.get(record.levelno, _PLAIN)
        line = f"{_DIM}{time}{_PLAIN} {colour}{' '.join(words)}{_PLAIN}"
        return f"{line}\n{_places(record.exc_info[1])}" if record.exc_info else line
