"""The log: one JSON object a line with the id of its request, or shorter coloured lines where
standard error is a terminal."""

import contextvars
import logging
import sys
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)


@dataclass(slots=True)
class RequestNotes:
    """What is noted while a request is answered, for its line in the log and its metrics.

    `source`: where the answer came from, see `answered_from`; empty if it is never kept.
    """

    ksef_calls: int = 0
    source: str = ""


request_notes: contextvars.ContextVar[RequestNotes | None] = contextvars.ContextVar(
    "request_notes", default=None
)

_log = logging.getLogger("ksef_proxy")


def configure(level: str) -> None:
    """Send the log of this process to standard error, at `level` and above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter())
    _log.handlers = [handler]
    _log.propagate = False
    _log.setLevel(level)


def formatter() -> logging.Formatter:
    """The formatter of every line: JSON, or readable lines if standard error is a terminal."""
    return _TerminalLines() if sys.stderr.isatty() else _JsonLines()


def info(event: str, **fields: Any) -> None:
    """Log an event of ordinary work, with exactly these fields."""
    _log.info(event, extra={"fields": fields})


def warning(event: str, **fields: Any) -> None:
    """Log an event that an operator may want to look at."""
    _log.warning(event, extra={"fields": fields})


def exception(event: str, **fields: Any) -> None:
    """Log an unexpected exception, with its stack but without its message (see `_stack`)."""
    _log.exception(event, extra={"fields": fields})


def ksef_called() -> None:
    """Count a call to KSeF for the request that this thread is working on, if any."""
    if notes := request_notes.get():
        notes.ksef_calls += 1


def answered_from(source: str) -> None:
    """Note where the answer comes from; a later call replaces an earlier one.

    `store`: it was kept; `fresh`: KSeF was asked; `earlier`: it was kept and may be out of date,
    because KSeF could not be asked just then.
    """
    if notes := request_notes.get():
        notes.source = source


def masked_nip(nip: str) -> str:
    """A NIP as it may be logged: enough to tell companies apart, not enough to identify one."""
    return f"{nip[:3]}*****{nip[-2:]}"


def _printable(text: str) -> str:
    """The text without what a terminal could take for a command."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "�" for character in text)


def _stack(error: BaseException | None) -> str:
    """The stack traces of an exception and its causes, the first cause first.

    Messages of exceptions are left out: they may quote a link, a row or a token.
    """
    if error is None:
        return ""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    frames = "".join(traceback.format_tb(error.__traceback__))
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return f"{_stack(cause)}Traceback\n{frames}{name}\n"


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
            line["exception"] = _stack(record.exc_info[1])
        return _printable(msgspec.json.encode(line, enc_hook=str).decode())


_DIM, _RED, _YELLOW, _PLAIN = "\033[2m", "\033[31m", "\033[33m", "\033[0m"
_COLOURS = {logging.WARNING: _YELLOW, logging.ERROR: _RED, logging.CRITICAL: _RED}


class _TerminalLines(logging.Formatter):
    """`12:00:00 request GET /status 200 ms=1.2 …`: self-explanatory fields without their names."""

    def format(self, record: logging.LogRecord) -> str:
        fields = dict(getattr(record, "fields", {}))
        plain = [fields.pop(name) for name in ("method", "route", "status") if name in fields]
        words = [_printable(str(word)) for word in (record.getMessage(), *plain)]
        words += [
            f"{_DIM}{name}={_PLAIN}{_printable(str(value))}" for name, value in fields.items()
        ]
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        colour = _COLOURS.get(record.levelno, _PLAIN)
        line = f"{_DIM}{time}{_PLAIN} {colour}{' '.join(words)}{_PLAIN}"
        return f"{line}\n{_stack(record.exc_info[1])}" if record.exc_info else line
