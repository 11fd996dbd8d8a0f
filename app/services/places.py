"""How many threads of a worker may be with KSeF: the others are for answers that are kept."""

import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app import clock, errors, meters

_PAUSE = 10.0  # seconds without a refusal, after which somebody may wait again


class Places:
    """Places for threads that ask KSeF, or wait for one that does: three of four threads.

    While several companies have some, each gets at most half of them; and where all are taken,
    a company that has none gets one more, as long as that is not the last thread.
    """

    def __init__(self, threads: int, *, wait: float, retry_after: int) -> None:
        """`wait`: seconds for a place to become free. Once that was in vain nobody waits, so that
        a KSeF that hangs does not hold the other threads as well."""
        self._all = max(1, threads * 3 // 4)
        self._and_more = max(self._all, threads - 1)
        self._wait = wait
        self._retry_after = retry_after
        self._held: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._nobody_waits_until = -math.inf

    @contextmanager
    def one(self, company_nip: str) -> Iterator[None]:
        """A place for as long as the block lasts. Raises Busy."""
        with self._changed:
            if not (self._is_one_for(company_nip) or self._comes_in_time(company_nip)):
                self._nobody_waits_until = clock.monotonic() + _PAUSE
                meters.refused.labels("ksef").inc()
                raise errors.Busy("Too many requests wait for KSeF.", retry_after=self._retry_after)
            self._held[company_nip] += 1
        try:
            yield
        finally:
            with self._changed:
                self._held[company_nip] -= 1
                if not self._held[company_nip]:
                    del self._held[company_nip]
                self._changed.notify_all()

    def _comes_in_time(self, company_nip: str) -> bool:
        if clock.monotonic() < self._nobody_waits_until:
            return False
        return self._changed.wait_for(lambda: self._is_one_for(company_nip), self._wait)

    def _is_one_for(self, company_nip: str) -> bool:
        mine, taken = self._held[company_nip], self._held.total()
        if mine == 0:
            return taken < self._and_more
        return taken < self._all and mine < (self._all if mine == taken else self._all // 2)
