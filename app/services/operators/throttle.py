"""Slows down password guessing: after ALLOWED failures, a user name is refused from that address.

Failures are counted in the database, for all replicas together, within `timing.failed_logins`
seconds.
"""

import hashlib
import math

from app import errors, telemetry
from app.db.pool import Connection, Database
from app.db.queries import users as queries
from app.services.operators import audit
from app.settings import Timing

ALLOWED = 10


def refuse_if_throttled(db: Database, timing: Timing, email: str, address: str) -> None:
    """Raise Unauthorized, with the time to wait, after too many failures."""
    with db.transaction() as connection:
        wait = _wait(timing, connection, _who(email, address))
    if wait > 0:
        telemetry.warning("too many failed logins: a caller is refused for a while")
        raise errors.Unauthorized(retry_after=math.ceil(wait))


def note_failure(
    db: Database, timing: Timing, email: str, address: str, company_nip: str | None
) -> None:
    """Count a failure, and delete those that are too old to count.

    The failure that starts the refusals is audited if the user exists; `company_nip` is its company
    then, else None.
    """
    who = _who(email, address)
    with db.transaction() as connection:
        queries.note_failed_login(connection, who=who, seconds=timing.failed_logins)
        if company_nip is not None and _wait(timing, connection, who) > 0:
            audit.note(
                connection,
                audit.What.USER_PUT_OFF,
                audit.Actor(email, address or None, telemetry.request_id.get()),
                company_nip=company_nip,
            )


def _wait(timing: Timing, connection: Connection, who: bytes) -> float:
    """Seconds until a password is looked at again; 0 if it may be looked at now."""
    wait = queries.throttled_for(
        connection, who=who, before=ALLOWED - 1, seconds=timing.failed_logins
    )
    return max(0.0, wait or 0.0)


def _who(email: str, address: str) -> bytes:
    name = f"{email}\0{address}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(name).digest()
