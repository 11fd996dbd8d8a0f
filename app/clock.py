"""The time, asked for in one place, so that nobody else has to."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

WARSAW = ZoneInfo("Europe/Warsaw")

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
_waiting_since: ContextVar[float | None] = ContextVar("waiting_since", default=None)


def now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds on a clock that is never set; only differences mean anything."""
    return time.monotonic()


def sleep(seconds: float) -> None:
    """Wait for so many seconds."""
    time.sleep(seconds)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give what is done inside so many seconds; less where it stands within something shorter."""
    token = _deadline.set(min(_deadline.get(), monotonic() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


def time_left() -> float:
    """Seconds that are left of what this thread stands `within`; infinite outside of it."""
    return _deadline.get() - monotonic()


@contextmanager
def waited_since(moment: float) -> Iterator[None]:
    """What is done inside was asked for at a moment of `monotonic`, and had to wait until now."""
    token = _waiting_since.set(moment)
    try:
        yield
    finally:
        _waiting_since.reset(token)


def waited() -> float:
    """Seconds since this thread's request came; 0 where nobody knows."""
    came = _waiting_since.get()
    return 0.0 if came is None else monotonic() - came
