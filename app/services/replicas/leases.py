"""One at a time, across threads, workers and replicas."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app import clock, errors, meters, telemetry
from app.account import Account
from app.db.pool import Connection
from app.db.queries import leases as queries


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do a thing alone, until it runs out and somebody else takes it over."""

    name: str
    holder: str

    def extend(self, account: Account, seconds: float) -> bool:
        """Keep it for so many seconds from now; false where it was taken over."""
        kept = account.db.run(
            queries.extend_lease, name=self.name, holder=self.holder, seconds=seconds
        )
        return kept is not None

    def holds(self, connection: Connection) -> bool:
        """Whether what this transaction writes is still ours to write.

        A holder that took too long must not write after another one's work.
        """
        held = queries.hold_lease(connection, name=self.name, holder=self.holder)
        if held is None:
            telemetry.warning("a lease ran out before its work was done", name=self.name[:5])
        return held is not None


@contextmanager
def try_lease(account: Account, what: str, seconds: float | None = None) -> Iterator[Lease | None]:
    """The lease on `what` for this account during the block; None if somebody else holds it.

    A holder that died is replaced when its lease runs out, `seconds` (`timing.lease` unless given)
    after it began. No connection is held meanwhile.
    """
    lease = Lease(f"{what} {account.environment} {account.company_nip}", str(uuid.uuid4()))
    taken = account.db.run(
        queries.take_lease,
        name=lease.name,
        holder=lease.holder,
        seconds=account.timing.lease if seconds is None else seconds,
    )
    if taken is None:
        yield None
        return
    try:
        yield lease
    finally:
        try:
            account.db.run(queries.release_lease, name=lease.name, holder=lease.holder)
        except errors.Unavailable:
            telemetry.warning("a lease was not given back and will run out", name=lease.name[:5])


def attempts(account: Account, what: str, seconds: float) -> Iterator[None]:
    """Attempts at something that somebody else may be doing just now, one each `lease_poll`.

    `what` names it in the metrics: question or login. Raises Unavailable after `seconds`.
    """
    deadline = clock.monotonic() + seconds
    while True:
        yield
        if clock.monotonic() > deadline:
            raise errors.Unavailable(
                f"Another request is still busy with the same {what} at KSeF.",
                retry_after=account.timing.retry_after,
            )
        clock.sleep(account.timing.lease_poll)
        meters.lease_wait_seconds.labels(what).inc(account.timing.lease_poll)
