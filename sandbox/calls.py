"""The log of calls."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any, Final

KEPT: Final = 50_000


@dataclass(slots=True)
class Call:
    """One call in the log, which came `at` and was `answered_at`.

    `status` and `answered_at` stay None where the connection ended without an answer.
    """

    service: str
    environment: str | None
    method: str
    path: str
    query: str
    route: str | None
    at: str
    nip: str | None = None
    status: int | None = None
    answered_at: str | None = None
    retry_after: str | None = None
    fault: str | None = None
    page_size: str | None = None
    has_continuation_token: bool = False
    error_format: str | None = None
    user_agent: str | None = None
    has_bearer: bool = False

    def as_json(self) -> dict[str, Any]:
        """The call under camelCase names."""
        names = {
            "answered_at": "answeredAt",
            "retry_after": "retryAfter",
            "page_size": "pageSize",
            "has_continuation_token": "hasContinuationToken",
            "error_format": "errorFormat",
            "user_agent": "userAgent",
            "has_bearer": "hasBearer",
        }
        return {names.get(name, name): value for name, value in asdict(self).items()}


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
            calls = list(self._calls)
        return [call for call in calls if environment in (None, call.environment)]

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
