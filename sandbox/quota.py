"""KSeF's request limits: exact rolling windows of 1, 60 and 3600 seconds."""

import math
import threading
from collections import deque
from datetime import datetime
from typing import Final

import msgspec

from sandbox.settings import NO_LIMIT, Limit

WINDOWS: Final = (1, 60, 3600)
WINDOW_WORDS: Final = ("sekundę", "minutę", "godzinę")


class Quota:
    """Counts admitted calls per key. A refused call is not counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._admitted: dict[tuple[str, ...], deque[float]] = {}

    def clear(self) -> None:
        """Forgets all calls."""
        with self._lock:
            self._admitted.clear()

    def admit(
        self,
        claims: list[tuple[tuple[str, ...], Limit]],
        now: datetime,
        scale: float = 1.0,
    ) -> tuple[int, str] | None:
        """Counts one call against all `claims` (key, limits), or against none of them.

        Returns None when it is admitted, else the whole seconds until a repeat can be and which
        limit stood in the way. `scale`: the length of the windows, times this.
        """
        moment = now.timestamp()
        with self._lock:
            wait = 0.0
            reason = ""
            for key, limits in claims:
                admitted = self._admitted.setdefault(key, deque())
                while admitted and admitted[0] <= moment - WINDOWS[-1] * scale:
                    admitted.popleft()
                for limit, window, word in zip(
                    msgspec.structs.astuple(limits), WINDOWS, WINDOW_WORDS, strict=True
                ):
                    if limit == NO_LIMIT or len(admitted) < limit:
                        continue
                    # The window is full while the limit-th newest call is still inside it.
                    free_at = (admitted[-limit] if limit else moment) + window * scale
                    if free_at - moment > wait:
                        wait = free_at - moment
                        reason = f"{limit} żądań na {word}"
            if wait > 0:
                return max(1, math.ceil(wait)), reason
            for key, _ in claims:
                self._admitted[key].append(moment)
            return None
