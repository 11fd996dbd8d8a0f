"""Repeats a failed call to KSeF once, if that does no harm and may help."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from app import clock, errors, telemetry

T = TypeVar("T")

_TEMPORARY = frozenset({502, 503, 504})  # HTTP status codes


class NoAnswer(errors.KsefUnreachable):
    """The connection failed, or ended before the first byte of an answer."""


@dataclass(frozen=True, slots=True)
class Retry:
    """At most one retry, after a random pause of `least` to `most` seconds.

    There is no retry if the request would then have `left` seconds or less.
    """

    left: float = 5.0
    least: float = 0.1
    most: float = 0.4

    def once(self, send: Callable[[], T], may: Callable[[], bool] = lambda: True) -> T:
        """What `send` returns; it is called again if it fails in a way that looks temporary.

        Only for calls that change nothing. `may` tells whether the quota allows another call. A
        429, any other refusal and a timeout are never repeated.
        """
        try:
            return send()
        except (errors.KsefFailure, errors.KsefOutage) as failure:
            pause = random.uniform(self.least, self.most)  # noqa: S311 - spreads callers, no secret
            if not _is_temporary(failure) or clock.time_left() - pause <= self.left or not may():
                raise
            telemetry.info("KSeF is asked once more", code=failure.code)
        clock.sleep(pause)
        return send()


def _is_temporary(failure: BaseException | None) -> bool:
    if isinstance(failure, errors.KsefOutage):
        # Its cause is the failed call; there is none if the breaker did not let the call through.
        return _is_temporary(failure.__cause__)
    if isinstance(failure, NoAnswer):
        return True
    ksef = failure.ksef if isinstance(failure, errors.KsefFailure) else None
    return ksef is not None and ksef.http_status in _TEMPORARY
