"""One fetch for one question, however many ask: the others wait for its answer."""

from collections.abc import Callable
from typing import TypeVar

from app import clock, errors, meters
from app.services.leases import try_lease
from app.services.parts import Parts, Place

T = TypeVar("T")


def single(
    parts: Parts,
    place: Place,
    question: str,
    *,
    look: Callable[[], T | None],
    look_beside: Callable[[], T | None],
    fetch: Callable[[], T],
) -> T:
    """The answer to a question: fetched by one caller, under a lease.

    `look` tells whether the answer is there by now, `look_beside` what may be given to those who
    came while another one fetches; both may raise. Raises Unavailable where that takes too long.
    The caller holds a place in `parts.places`, so that some threads stay free for kept answers.
    """
    name = f"{question} {place.environment} {place.company_nip}"
    deadline = clock.monotonic() + parts.timing.single_flight_wait
    while clock.monotonic() < deadline:
        with try_lease(parts, name) as mine:
            if mine:
                return look() or fetch()
        if found := look_beside():
            return found
        clock.sleep(parts.timing.lease_poll)
        meters.lease_wait_seconds.labels("question").inc(parts.timing.lease_poll)
    raise errors.Unavailable(
        "Another request is still asking KSeF the same.", retry_after=parts.timing.retry_after
    )
