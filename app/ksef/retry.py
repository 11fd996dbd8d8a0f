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
        except errors.KsefFailure as failure:
            pause = random.uniform(self.least, self.most)  # noqa: S311 - spreads callers, no secret
            if not _may_pass(failure) or clock.time_left() - pause < self.left or not may():
                raise
            telemetry.info("KSeF is asked once more", code=failure.code)
        clock.sleep(pause)
        return send()


def _may_pass(failure: errors.KsefFailure) -> bool:
    if isinstance(failure, NoAnswer):
        return True
    return failure.ksef is not None and failure.ksef.http_status in _PASSING
