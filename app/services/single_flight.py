"""One request asks KSeF a question for all that ask the same: the others wait for its answer."""

from collections.abc import Callable
from typing import TypeVar

from app import clock, errors, meters
from app.services.leases import try_lease
from app.services.parts import Parts, Place

T = TypeVar("T")


def fetch_once(
    parts: Parts,
    place: Place,
    question: str,
    *,
    look: Callable[[], T | None],
    look_beside: Callable[[], T | None],
    fetch: Callable[[], T],
) -> T:
    """The answer to a question, which one caller of all replicas fetches, under a lease.

    The caller with the lease gets what `look` finds (another one may have stored it just before),
    else what `fetch` returns. All others get what `look_beside` finds, which may be an older
    answer, and wait while it finds nothing. Both may raise, to end the wait with an error.
    Raises Unavailable after `timing.single_flight_wait` seconds.

    The caller must hold one of `parts.places`, so that not all threads of a worker can wait here.
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
        "Another request is still asking KSeF the same question.",
        retry_after=parts.timing.retry_after,
    )
