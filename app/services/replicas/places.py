"""Limits how many threads of a worker may be busy with KSeF; the others serve kept answers.

Otherwise a KSeF that hangs would soon hold all threads.
"""

import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app import clock, errors, meters

_PAUSE = 10.0  # seconds after a refusal in which the next caller is refused without waiting


class Places:
    """Places for threads that ask KSeF or wait for one that does: three quarters of all threads.

    While several companies hold places, each may hold at most half of them. When all are taken, a
    company that holds none still gets one, as long as one thread stays free.
    """

    def __init__(self, threads: int, *, wait: float, retry_after: int) -> None:
        """`wait`: seconds that a caller waits for a free place. After a wait in vain, callers are
        refused at once for _PAUSE seconds, so that waiting does not hold the other threads too.
        """
        self._all = max(1, threads * 3 // 4)
        self._and_more = max(self._all, threads - 1)
        self._wait = wait
        self._retry_after = retry_after
        self._held: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._nobody_waits_until = -math.inf

    @contextmanager
    def one(self, company_nip: str) -> Iterator[None]:
        """Hold a place for this company during the block. Raises Busy if none becomes free."""
        with self._changed:
            if not (self._is_free_for(company_nip) or self._becomes_free_for(company_nip)):
                self._nobody_waits_until = clock.monotonic() + _PAUSE
                meters.refused.labels("ksef").inc()
                raise errors.Busy(
                    "Too many requests are waiting for KSeF.", retry_after=self._retry_after
                )
            self._held[company_nip] += 1
        try:
            yield
        finally:
            with self._changed:
                self._held[company_nip] -= 1
                if not self._held[company_nip]:
                    del self._held[company_nip]
                self._changed.notify_all()

    def _becomes_free_for(self, company_nip: str) -> bool:
        if clock.monotonic() < self._nobody_waits_until:
            return False
        return self._changed.wait_for(lambda: self._is_free_for(company_nip), self._wait)

    def _is_free_for(self, company_nip: str) -> bool:
        mine, taken = self._held[company_nip], self._held.total()
        if mine == 0:
            return taken < self._and_more
        return taken < self._all and mine < (self._all if mine == taken else self._all // 2)
