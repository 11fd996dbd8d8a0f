"""Companies, and the users who make requests for them."""

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.crypto import derived_key
from app.db.pool import Database
from app.db.queries import users as queries
from app.errors import OperatorError, Unauthorized
from app.services.operators import audit, throttle
from app.services.operators.audit import What
from app.services.operators.passwords import Passwords
from app.settings import Timing

ROLES = ("admin", "technical")
_NIP_WEIGHTS = (6, 5, 7, 2, 3, 4, 5, 6, 7)
_MIN_PASSWORD = 12


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated user, with the one company whose data it may see."""

    email: str
    company_nip: str
    role: str


def authenticate(
    db: Database,
    passwords: Passwords,
    timing: Timing,
    email: str,
    password: str,
    *,
    address: str = "",
) -> Caller:
    """The caller with this user name and password; Unauthorized, with one text for all causes.

    The user is read on every request, so that disabling one takes effect at once. After too many
    failures (see `throttle`; `address` is "" if unknown) the password is not even looked at for a
    while, unless the same password was verified a moment ago.
    """
    email = _normal(email)
    user = db.run(queries.get_user, email=email) if "\0" not in email else None
    if user is not None and user.disabled_at is not None:
        user = None
    stored = user.password_hash if user else None
    if user is None or not passwords.remembers(password, stored):
        with passwords.turn():
            # Another call may have proved it meanwhile: of many at once, few are attempts.
            right = passwords.remembers(password, stored)
            if not right:
                attempt = throttle.begin(db, timing, email, address)
                right = passwords.verify(password, stored)
                nip = user.company_nip if user else None
                throttle.end(db, timing, attempt, succeeded=right, company_nip=nip)
        if user is None or not right:
            raise Unauthorized
    return Caller(user.email, user.company_nip, user.role)


def hash_of_name(secret_key: bytes, name: str) -> str:
    """A user name as it may be logged before it is known to be one: the same for the same name.

    It may be a password, typed into the wrong field; so the hash has a key of ours.
    """
    key = derived_key(secret_key, "user names in the log")
    return hmac.digest(key, name.encode("utf-8", "surrogatepass"), "sha256").hex()[:16]


def add_company(db: Database, nip: str, name: str) -> None:
    """Add a company; OperatorError if the NIP is invalid or there already, or the name empty."""
    if not is_nip(nip):
        raise OperatorError(f"{nip} is not a NIP: ten digits, the last of them a check digit.")
    if not name.strip():
        raise OperatorError("A company needs a name.")
    with db.transaction() as connection:
        if queries.add_company(connection, nip=nip, name=name.strip()) is None:
            raise OperatorError(f"Company {nip} exists already.")
        audit.note(connection, What.COMPANY_ADDED, company_nip=nip)


def add_user(
    db: Database,
    passwords: Passwords,
    *,
    email: str,
    nip: str,
    role: str,
    password: str | None,
) -> str:
    """Add a user and return its password, which is generated if none was given.

    OperatorError if the e-mail address, password or company will not do, or the user exists.
    """
    email = _normal(email)
    if "@" not in email or ":" in email or not email.isprintable() or len(email) > 254:
        raise OperatorError(f"{email!r} is not an e-mail address that HTTP Basic can carry.")
    if password is not None and len(password) < _MIN_PASSWORD:
        raise OperatorError(f"A password has at least {_MIN_PASSWORD} characters.")
    password = password or secrets.token_urlsafe(18)
    require_company(db, nip)
    with db.transaction() as connection:
        added = queries.add_user(
            connection,
            email=email,
            company_nip=nip,
            role=role,
            password_hash=passwords.hash(password),
        )
        if added is None:
            raise OperatorError(f"User {email} exists already.")
        audit.note(connection, What.USER_ADDED, company_nip=nip, detail=f"{email} {role}")
    return password


def disable_user(db: Database, email: str) -> None:
    """Disable a user, from its next request on; OperatorError if there is no such user."""
    with db.transaction() as connection:
        user = queries.disable_user(connection, email=_normal(email))
        if user is None:
            raise OperatorError(f"There is no user {email}.")
        audit.note(connection, What.USER_DISABLED, company_nip=user.company_nip, detail=user.email)


def list_users(db: Database) -> Sequence[Any]:
    """All users: email, company_nip, role, created_at, disabled_at."""
    return db.rows(queries.list_users)


def require_company(db: Database, nip: str) -> None:
    """OperatorError where there is no company with this NIP."""
    if db.run(queries.get_company, nip=nip) is None:
        raise OperatorError(f"There is no company {nip}: add it with `company add`.")


def is_nip(text: str) -> bool:
    """Whether a text is a NIP: ten ASCII digits, no leading zero, the check digit right."""
    if len(text) != 10 or not text.isascii() or not text.isdigit() or text[0] == "0":
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_NIP_WEIGHTS, text, strict=False))
    return total % 11 == int(text[9])


def _normal(email: str) -> str:
    return email.strip().lower()
