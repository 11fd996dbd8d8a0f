"""The time, asked for in one place, so that nobody else has to."""

import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

WARSAW = ZoneInfo("Europe/Warsaw")


def now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds on a clock that is never set; only differences mean anything."""
    return time.monotonic()


def sleep(seconds: float) -> None:
    """Wait for so many seconds."""
    time.sleep(seconds)
