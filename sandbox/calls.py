"""The log of calls."""

import threading
from collections import Counter, deque
from typing import Final

from sandbox.orders import Call

KEPT: Final = 50_000


class CallLog:
    """The newest calls one by one, and how many of each kind there were in all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: deque[Call] = deque(maxlen=KEPT)
        self._counts: Counter[tuple[str | None, str]] = Counter()

    def note(self, call: Call) -> None:
        """Adds a call; its status is set later, on the same object."""
        with self._lock:
            self._calls.append(call)
            self._counts[call.environment, f"{call.method} {call.route or call.path}"] += 1

    def calls(self, environment: str | None = None) -> list[Call]:
        """The newest calls, oldest first; all environments' where none is named."""
        with self._lock:
            return [call for call in self._calls if environment in (None, call.environment)]

    def counts(self, environment: str | None = None) -> dict[str, int]:
        """How many calls of each method and route."""
        answer: Counter[str] = Counter()
        with self._lock:
            for (name, kind), number in self._counts.items():
                if environment in (None, name):
                    answer[kind] += number
        return dict(answer)

    def clear(self) -> None:
        """Empties the log."""
        with self._lock:
            self._calls.clear()
            self._counts.clear()
