"""The time, and the time that is left: all other modules ask here."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

WARSAW = ZoneInfo("Europe/Warsaw")

monotonic = time.monotonic
"""Seconds on a clock that never jumps; only differences are meaningful."""

sleep = time.sleep
"""Wait for so many seconds."""

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
_waiting_since: ContextVar[float | None] = ContextVar("waiting_since", default=None)


def now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Set a deadline, so many seconds from now, for the block; it can only shorten an outer one.

    Nothing is interrupted: the code inside asks `time_left`.
    """
    token = _deadline.set(min(_deadline.get(), monotonic() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


def time_left() -> float:
    """Seconds until the deadline set by `within`, below 0 once it has passed; infinite for none."""
    return _deadline.get() - monotonic()


def waits_since(moment: float) -> None:
    """Note that the request of this context arrived at `moment` (of `monotonic`)."""
    _waiting_since.set(moment)


def waited() -> float:
    """Seconds since the request of this context arrived; 0 if that is unknown (`waits_since`)."""
    came = _waiting_since.get()
    return 0.0 if came is None else monotonic() - came
