"""Logs for the operator: one JSON object a line, with the id of the request it belongs to."""

import contextvars
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)

_log = logging.getLogger("ksef_proxy")


def configure(level: str) -> None:
    """Send the log of this process to standard error as JSON lines, at `level` and above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    _log.handlers = [handler]
    _log.propagate = False
    _log.setLevel(level)


def info(event: str, **fields: Any) -> None:
    """Log an event of ordinary work. Only what the caller names is logged."""
    _log.info(event, extra={"fields": fields})


def warning(event: str, **fields: Any) -> None:
    """Log what an operator may want to look at."""
    _log.warning(event, extra={"fields": fields})


def exception(event: str, **fields: Any) -> None:
    """Log a failure of our own, with where it happened."""
    _log.exception(event, extra={"fields": fields})


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
