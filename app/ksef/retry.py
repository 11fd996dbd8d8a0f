"""Asking KSeF once more, where that can do no harm and may help."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from app import clock, errors, telemetry

T = TypeVar("T")

_PASSING = frozenset({502, 503, 504})


class NoAnswer(errors.KsefUnreachable):
    """No connection, or one that ended before the first byte of an answer."""


@dataclass(frozen=True, slots=True)
class Retry:
    """At most one retry, after a pause of `least` to `most` seconds.

    None where less than `left` seconds of the request would remain.
    """

    left: float = 5.0
    least: float = 0.1
    most: float = 0.4

    def once(self, send: Callable[[], T], may: Callable[[], bool] = lambda: True) -> T:
        """What `send` gives; a second time where the first ended in something that passes.

        Only for calls that change nothing. `may`: whether the quota allows another call. A 429,
        another refusal and a deadline that is used up are never repeated.
        """
        try:
            return send()
        except (errors.KsefFailure, errors.KsefOutage) as failure:
            pause = random.uniform(self.least, self.most)  # noqa: S311 - spreads callers, no secret
            if not _may_pass(failure) or clock.time_left() - pause <= self.left or not may():
                raise
            telemetry.info("KSeF is asked once more", code=failure.code)
        clock.sleep(pause)
        return send()


def _may_pass(failure: BaseException | None) -> bool:
    if isinstance(failure, errors.KsefOutage):
        # A call that failed in an outage; where the breaker let none through there is no cause.
        return _may_pass(failure.__cause__)
    if isinstance(failure, NoAnswer):
        return True
    ksef = failure.ksef if isinstance(failure, errors.KsefFailure) else None
    return ksef is not None and ksef.http_status in _PASSING
