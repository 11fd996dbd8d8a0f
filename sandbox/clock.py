"""The sandbox's own time, which the control plane can move, stop and speed up."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

WARSAW: Final = ZoneInfo("Europe/Warsaw")


class _Run(NamedTuple):
    """From `start` on, which was `real` in real time, `rate` seconds pass in a real one."""

    start: datetime
    real: datetime
    rate: float


class Clock:
    """Answers `now()` in UTC. It only moves forward."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Back to real time."""
        present = datetime.now(UTC)
        self._run = _Run(present, present, 1.0)
        self._rate = 1.0
        self.is_frozen = False

    def now(self) -> datetime:
        """The sandbox's present, aware, UTC."""
        return self._at(datetime.now(UTC))

    def _at(self, real: datetime) -> datetime:
        run = self._run
        return run.start + (real - run.real) * run.rate

    def _continue(self, step: timedelta = timedelta()) -> datetime:
        """Goes on from now, `step` later; to be called with the lock."""
        real = datetime.now(UTC)
        self._run = _Run(self._at(real) + step, real, 0.0 if self.is_frozen else self._rate)
        return self._run.start

    def run_at(self, rate: float) -> None:
        """Lets so many seconds pass in a real one from now on (> 0)."""
        if rate <= 0:
            raise ValueError("the clock only moves forward")
        with self._lock:
            self._rate = rate
            self._continue()

    def advance(self, seconds: float) -> datetime:
        """Moves the clock `seconds` (>= 0) ahead and returns the new time."""
        if seconds < 0:
            raise ValueError("the clock only moves forward")
        with self._lock:
            return self._continue(timedelta(seconds=seconds))

    def freeze(self, frozen: bool) -> datetime:
        """Stops the clock (`advance` still moves it) or lets it run on; the time."""
        with self._lock:
            self.is_frozen = frozen
            return self._continue()


def stamp(moment: datetime) -> str:
    """KSeF's date-time: offset `+00:00` and seven fractional digits."""
    return f"{moment.astimezone(UTC).isoformat(timespec='microseconds')[:-6]}0+00:00"


def parse_stamp(text: str) -> datetime:
    """An ISO 8601 date-time; one without an offset is read as UTC. ValueError otherwise."""
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
