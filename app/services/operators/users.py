"""Companies, and the users who make requests for them."""

import hmac
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from app.crypto import derived_key
from app.db.pool import Connection, Database
from app.db.queries import users as queries
from app.errors import OperatorError, Unauthorized, Unavailable
from app.services.operators import audit, throttle
from app.services.operators.audit import What
from app.services.operators.passwords import Passwords, weakness
from app.settings import Timing

ROLES = ("admin", "technical")
_NIP_WEIGHTS = (6, 5, 7, 2, 3, 4, 5, 6, 7)


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
                if user and right and passwords.is_outdated(user.password_hash):
                    _hash_again(db, passwords, user, password)
        if user is None or not right:
            raise Unauthorized
    return Caller(user.email, user.company_nip, user.role)


def _hash_again(db: Database, passwords: Passwords, user: Any, password: str) -> None:
    """Store the hash as it is made today; one that was changed meanwhile stays."""
    new = passwords.hash(password)
    with suppress(Unavailable):
        db.run(queries.replace_hash, email=user.email, old=user.password_hash, new=new)


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
    password = _checked(email, password)
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
            cure = "see user set-password, set-role and enable"
            raise OperatorError(f"User {email} exists already: {cure}.")
        audit.note(connection, What.USER_ADDED, company_nip=nip, detail=f"{email} {role}")
    return password


def set_password(db: Database, passwords: Passwords, email: str, password: str | None) -> str:
    """Change a user's password and return it; one is generated if none was given.

    Its failed logins are forgotten. OperatorError if there is no such user, or it will not do.
    """
    password = _checked(_normal(email), password)
    hashed = passwords.hash(password)
    with db.transaction() as connection:
        values = {"password_hash": hashed}
        user = _change(connection, What.USER_PASSWORD_SET, email, queries.set_password, **values)
        throttle.forget(connection, user.email)
    return password


def set_role(db: Database, email: str, role: str) -> None:
    """Change a user's role, from its next request on; OperatorError if there is no such user."""
    with db.transaction() as connection:
        _change(connection, What.USER_ROLE_SET, email, queries.set_role, f" {role}", role=role)


def disable_user(db: Database, email: str) -> None:
    """Disable a user, from its next request on; OperatorError if there is no such user."""
    with db.transaction() as connection:
        _change(connection, What.USER_DISABLED, email, queries.disable_user)


def enable_user(db: Database, email: str) -> None:
    """Let a disabled user in again; OperatorError if there is no such user."""
    with db.transaction() as connection:
        _change(connection, What.USER_ENABLED, email, queries.enable_user)


def unlock_user(db: Database, email: str) -> None:
    """Forget a user's failed logins, from everywhere; OperatorError if there is no such user."""
    with db.transaction() as connection:
        user = _change(connection, What.USER_UNLOCKED, email, queries.find_user)
        throttle.forget(connection, user.email)


def _change(
    connection: Connection, what: What, email: str, query: Any, detail: str = "", **values: Any
) -> Any:
    """Change a user by a query with its e-mail address, and note it; the user's row."""
    user = query(connection, email=_normal(email), **values)
    if user is None:
        raise OperatorError(f"There is no user {email}.")
    audit.note(connection, what, company_nip=user.company_nip, detail=user.email + detail)
    return user


def list_companies(db: Database) -> Sequence[Any]:
    """All companies, also removed ones: nip, name, users, removed_at."""
    return db.rows(queries.list_companies)


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


def _checked(email: str, password: str | None) -> str:
    """The password; a strong one for None. OperatorError for one that is soon guessed."""
    if password is None:
        return secrets.token_urlsafe(18)
    if wrong := weakness(password, email):
        raise OperatorError(wrong)
    return password


def _normal(email: str) -> str:
    return email.strip().lower()
