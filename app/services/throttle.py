"""Guessing passwords is slow: so many failures in a while, then no more for that user and address.

Counted in the database, for all replicas together.
"""

import hashlib
import math

from app import errors, telemetry
from app.db.pool import Connection
from app.db.queries import users as queries
from app.services import audit
from app.services.parts import Parts

ALLOWED = 10


def refuse_if_throttled(parts: Parts, email: str, address: str) -> None:
    """Unauthorized, with the time to wait, after ALLOWED failures within `timing.failed_logins`."""
    with parts.db.transaction() as connection:
        wait = _wait(parts, connection, _who(email, address))
    if wait > 0:
        telemetry.warning("a caller fails to log in again and again, and is put off")
        raise errors.Unauthorized(retry_after=math.ceil(wait))


def note_failure(parts: Parts, email: str, address: str, company_nip: str | None) -> None:
    """Count a failure; those that are too old to count go.

    The one that puts a known user's address off (`company_nip` is the user's) is audited.
    """
    who = _who(email, address)
    with parts.db.transaction() as connection:
        queries.note_failed_login(connection, who=who, seconds=parts.timing.failed_logins)
        if company_nip is not None and _wait(parts, connection, who) > 0:
            audit.note(
                connection,
                audit.What.USER_PUT_OFF,
                audit.Actor(email, address or None, telemetry.request_id.get()),
                company_nip=company_nip,
            )


def _wait(parts: Parts, connection: Connection, who: bytes) -> float:
    """Seconds until a password is looked at again; 0 where nothing is in the way."""
    wait = queries.throttled_for(
        connection, who=who, before=ALLOWED - 1, seconds=parts.timing.failed_logins
    )
    return max(0.0, wait or 0.0)


def _who(email: str, address: str) -> bytes:
    name = f"{email}\0{address}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(name).digest()
