"""The sandbox's own time: real time plus what the control plane added, or a frozen instant."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta


class Clock:
    """Answers `now()` in UTC. It only moves forward."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset = timedelta()
        self._rate = 1.0
        self._since = datetime.now(UTC)
        self._frozen: datetime | None = None

    def now(self) -> datetime:
        """The sandbox's present, aware, UTC."""
        frozen = self._frozen
        return frozen if frozen is not None else self._running()

    def _running(self) -> datetime:
        present = datetime.now(UTC)
        if self._rate == 1.0:
            return present + self._offset
        return self._since + (present - self._since) * self._rate + self._offset

    def run_at(self, rate: float) -> None:
        """Lets so many seconds pass in a real one from now on (> 0)."""
        if rate <= 0:
            raise ValueError("the clock only moves forward")
        with self._lock:
            before = self._running()
            self._rate, self._since = rate, datetime.now(UTC)
            self._offset += before - self._running()

    def advance(self, seconds: float) -> datetime:
        """Moves the clock `seconds` (>= 0) ahead and returns the new time."""
        if seconds < 0:
            raise ValueError("the clock only moves forward")
        with self._lock:
            step = timedelta(seconds=seconds)
            self._offset += step
            if self._frozen is not None:
                self._frozen += step
            return self.now()

    def freeze(self) -> datetime:
        """Stops the clock; `advance` still moves it."""
        with self._lock:
            if self._frozen is None:
                self._frozen = self.now()
            return self._frozen

    def thaw(self) -> datetime:
        """Lets the clock run on from where it stands."""
        with self._lock:
            if self._frozen is not None:
                self._offset += self._frozen - self._running()
                self._frozen = None
            return self.now()

    def reset(self) -> None:
        """Back to real time."""
        with self._lock:
            self._offset = timedelta()
            self._rate = 1.0
            self._frozen = None

    @property
    def is_frozen(self) -> bool:
        """Whether the clock stands still."""
        return self._frozen is not None


def stamp(moment: datetime) -> str:
    """KSeF's date-time: offset `+00:00` and seven fractional digits."""
    return f"{moment.astimezone(UTC).isoformat(timespec='microseconds')[:-6]}0+00:00"


def parse_stamp(text: str) -> datetime:
    """An ISO 8601 date-time; one without an offset is read as UTC. ValueError otherwise."""
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
