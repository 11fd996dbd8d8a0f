"""Slows down password guessing: after too many failures no password is looked at for a while.

Failures are counted in the database, for all replicas together, within `timing.failed_logins`
seconds: of a user name from one address, of a name from wherever, and of an address with whatever
names. Who logged in from an address before (`timing.known_login`) is counted there by both
together only, so that nobody elsewhere, and no neighbour behind the same address who guesses other
names, can lock that user out.
"""

import hashlib
import math
from dataclasses import dataclass
from datetime import datetime

from app import errors, telemetry
from app.db.pool import Connection, Database
from app.db.queries import throttle as queries
from app.services.operators import audit
from app.settings import Timing

ALLOWED = 10  # failures of a name from one address
ALLOWED_BY_NAME = 30
ALLOWED_BY_ADDRESS = 100  # behind which there may be a whole company, or a proxy


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login whose password is about to be looked at, counted as failed until it has succeeded."""

    email: str
    address: str
    counted_at: datetime
    fills: bool
    """Whether the name, from this address or from all, has no attempt left after this one."""


def begin(db: Database, timing: Timing, email: str, address: str) -> Attempt | None:
    """Count an attempt, in one statement with the look whether there were too many failures.

    `address` is "" if it is unknown. None if the database cannot be written to: then nothing is
    counted, so that whoever has the right password is let in. Raises Unauthorized, with the time to
    wait, if no password is looked at now.
    """
    try:
        counted = db.run(
            queries.count_attempt,
            **_keys(email, address),
            by_pair=ALLOWED,
            by_name=ALLOWED_BY_NAME,
            by_address=ALLOWED_BY_ADDRESS,
            seconds=timing.failed_logins,
            remembered=timing.known_login,
        )
    except errors.NotWritable as error:
        telemetry.warning("failed logins are not counted", reason=error.reason)
        return None
    if counted.counted_at is None:
        telemetry.warning("too many failed logins: a caller is refused for a while")
        raise errors.Unauthorized(retry_after=max(1, math.ceil(counted.wait)))
    return Attempt(email, address, counted.counted_at, counted.fills)


def end(
    db: Database,
    timing: Timing,
    attempt: Attempt | None,
    *,
    succeeded: bool,
    company_nip: str | None,
) -> None:
    """What became of an attempt. If it succeeded it is no failure, and the user is known there.

    The failure that starts the refusals of a name is audited if the user exists: `company_nip` is
    its company, else None.
    """
    if attempt is None:
        return
    if succeeded:
        db.run(
            queries.undo_attempt,
            **_keys(attempt.email, attempt.address),
            counted_at=attempt.counted_at,
            remembered=timing.known_login,
        )
    elif attempt.fills and company_nip is not None:
        actor = audit.Actor(attempt.email, attempt.address or None, telemetry.request_id.get())
        with db.transaction() as connection:
            audit.note(connection, audit.What.USER_PUT_OFF, actor, company_nip=company_nip)
    db.run(queries.forget_attempts)


def is_counted(db: Database, email: str, address: str | None = None) -> bool:
    """Whether an attempt of that name was counted lately, from that address or from any."""
    keys = _keys(email, address or "")
    return bool(db.run(queries.is_counted, who=keys["name" if address is None else "pair"]))


def forget(connection: Connection, email: str) -> None:
    """Forget a user's failures, from every address."""
    queries.forget_name(connection, name=_hashed(b"name", email))


def _keys(email: str, address: str) -> dict[str, bytes | None]:
    name = _hashed(b"name", email)
    return {
        "pair": _hashed(b"name and address", name.hex(), address),
        "name": name,
        "address": _hashed(b"address", address) if address else None,
    }


def _hashed(kind: bytes, *parts: str) -> bytes:
    whole = b"\0".join((kind, *(part.encode("utf-8", "surrogatepass") for part in parts)))
    return hashlib.sha256(whole).digest()
