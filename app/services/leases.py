"""One at a time, across threads, workers and replicas."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app import errors, telemetry
from app.db.pool import Connection
from app.db.queries import leases as queries
from app.services.parts import Parts


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do a thing alone, until it runs out and somebody else takes it over."""

    name: str
    holder: str

    def extend(self, parts: Parts, seconds: float) -> bool:
        """Keep it for so long from now; false where it was taken over."""
        kept = parts.db.run(
            queries.extend_lease, name=self.name, holder=self.holder, seconds=seconds
        )
        return kept is not None

    def holds(self, connection: Connection) -> bool:
        """Whether what this transaction writes is still ours to write.

        The fence: a holder that took too long writes nothing after another one's work.
        """
        held = queries.hold_lease(connection, name=self.name, holder=self.holder)
        if held is None:
            telemetry.warning("a lease ran out before its work was done", name=self.name[:5])
        return held is not None


@contextmanager
def try_lease(parts: Parts, name: str, seconds: float | None = None) -> Iterator[Lease | None]:
    """The lease, where the caller alone may go on, for as long as the block lasts; else None.

    A holder that died is replaced when its lease runs out, `seconds` (`timing.lease` unless given)
    after it began. No connection is held meanwhile.
    """
    lease = Lease(name, str(uuid.uuid4()))
    taken = parts.db.run(
        queries.take_lease,
        name=name,
        holder=lease.holder,
        seconds=parts.timing.lease if seconds is None else seconds,
    )
    try:
        yield lease if taken is not None else None
    finally:
        if taken is not None:
            _release(parts, lease)


def _release(parts: Parts, lease: Lease) -> None:
    try:
        parts.db.run(queries.release_lease, name=lease.name, holder=lease.holder)
    except errors.Unavailable:
        telemetry.warning("a lease was not given back and will run out", name=lease.name[:5])
