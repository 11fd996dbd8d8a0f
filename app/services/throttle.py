"""Guessing passwords is slow: so many failures in a while, then no more for that user and address.

Counted in the database, for all replicas together.
"""

import hashlib
import math

from app import errors, telemetry
from app.db.queries import users as queries
from app.services.parts import Parts

ALLOWED = 10


def refuse_if_throttled(parts: Parts, email: str, address: str) -> None:
    """Unauthorized, with the time to wait, after ALLOWED failures within `timing.failed_logins`."""
    wait = parts.db.run(
        queries.throttled_for,
        who=_who(email, address),
        before=ALLOWED - 1,
        seconds=parts.timing.failed_logins,
    )
    if wait is not None and wait > 0:
        telemetry.warning("a caller fails to log in again and again, and is put off")
        raise errors.Unauthorized(retry_after=math.ceil(wait))


def note_failure(parts: Parts, email: str, address: str) -> None:
    """Count a failure; those that are too old to count go."""
    parts.db.run(
        queries.note_failed_login, who=_who(email, address), seconds=parts.timing.failed_logins
    )


def _who(email: str, address: str) -> bytes:
    name = f"{email}\0{address}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(name).digest()
