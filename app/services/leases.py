"""One at a time, across threads, workers and replicas."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from app import errors, telemetry
from app.db.queries import leases as queries
from app.services.parts import Parts


@contextmanager
def try_lease(parts: Parts, name: str) -> Iterator[bool]:
    """Whether the caller alone may go on, for as long as the block lasts.

    A holder that died is replaced when its lease runs out, `timing.lease` seconds after it began.
    No connection is held meanwhile.
    """
    holder = str(uuid.uuid4())
    with parts.db.transaction() as connection:
        taken = queries.take_lease(connection, name=name, holder=holder, seconds=parts.timing.lease)
    try:
        yield taken is not None
    finally:
        if taken is not None:
            _release(parts, name, holder)


def _release(parts: Parts, name: str, holder: str) -> None:
    try:
        with parts.db.transaction() as connection:
            queries.release_lease(connection, name=name, holder=holder)
    except errors.Unavailable:
        telemetry.warning("a lease was not given back and will run out", name=name)
