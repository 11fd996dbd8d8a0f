"""Logins to KSeF with a company's stored credential, which is stored sealed only.

A credential that KSeF refuses is marked as refused and not tried again for a while. One that KSeF
has blocked for security reasons (480) is not tried again until an operator stores it anew or logs
in by command.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from app import clock, errors, telemetry
from app.crypto import SealError
from app.db.queries import auth as queries
from app.ksef.auth import LoginRefused, log_in_with_certificate, log_in_with_token
from app.ksef.certificates import Certificate
from app.ksef.gateway import TokensLost
from app.ksef.wire import Tokens
from app.services import audit
from app.services.audit import What
from app.services.leases import Lease
from app.services.parts import Parts, Place

BLOCKED = 480  # KSeF's security blocked the credential: trying again makes it worse


@contextmanager
def refusal_noted(parts: Parts, place: Place, lease: Lease, *, repeat: bool) -> Iterator[None]:
    """Log in within the block: a refusal by KSeF is stored with the credential and audited.

    With `repeat`, a refusal that is stored and still holds is raised again before the block.
    """
    kept = parts.db.run(queries.get_refusal, **place.columns)
    before = _refusal(parts, kept) if repeat else None
    if before and (kept.code == BLOCKED or before.retry_after is not None):
        raise before
    try:
        yield
    except LoginRefused as error:
        if kept is not None and error.ksef is not None and error.ksef.code is not None:
            with parts.db.transaction() as connection:
                code = str(error.ksef.code)
                audit.note(connection, What.KSEF_LOGIN_REFUSED, **place.columns, detail=code)
                if lease.holds(connection):
                    queries.note_refusal(
                        connection,
                        **place.columns,
                        updated_at=kept.updated_at,
                        code=error.ksef.code,
                        words=(error.ksef.description or "").rstrip("."),
                    )
        raise


def stored_refusal(parts: Parts, place: Place) -> LoginRefused | None:
    """KSeF's refusal of the stored credential, if the last login with it was refused."""
    return _refusal(parts, parts.db.run(queries.get_refusal, **place.columns))


def _refusal(parts: Parts, kept: Any) -> LoginRefused | None:
    """The error from its row; `retry_after` is when KSeF is asked again, None if it may be now."""
    if kept is None or kept.code is None:
        return None
    blocked = kept.code == BLOCKED
    then = " An operator must act: store it anew, or run `login`." if blocked else ""
    left = 0.0 if blocked else parts.timing.refused_pause - kept.refused_for
    return LoginRefused(
        f"KSeF refused the company's credential: {kept.words}.{then}",
        ksef=errors.KsefAnswer(200, kept.code, kept.words),
        retry_after=math.ceil(left) if left > 0 else None,
    )


def new_tokens(parts: Parts, place: Place) -> tuple[str, Tokens]:
    """Log in and return the method (`certificate` or `token`) and the tokens.

    KSeF hands out the tokens of a login once; if that answer is lost, a second login is made.
    """
    try:
        return _tokens_for_credential(parts, place)
    except TokensLost:
        telemetry.warning("the answer to a login was lost", **place.log_fields)
    try:
        return _tokens_for_credential(parts, place)
    except TokensLost as lost:
        raise lost.failure from lost


def _tokens_for_credential(parts: Parts, place: Place) -> tuple[str, Tokens]:
    """Log in with the stored credential: the method and the tokens. Raises NoKsefCredential."""
    credential, secret = stored_credential(parts, place)
    if credential.method == "certificate":
        _warn_of_its_end(parts, place, credential.certificate_valid_until)
        return "certificate", tokens_for_certificate(parts, place, Certificate.from_json(secret))
    return "token", log_in_with_token(
        parts.ksef[place.environment],
        nip=place.company_nip,
        ksef_token=secret,
        seconds=parts.timing.login,
        poll=parts.timing.login_poll,
    )


def stored_credential(parts: Parts, place: Place) -> tuple[Any, str]:
    """The credential's row (method, certificate_valid_until) and its secret.

    Raises NoKsefCredential, and Unavailable where it does not open.
    """
    row = parts.db.run(queries.get_credential, **place.columns)
    if row is None:
        raise errors.NoKsefCredential(
            "No KSeF credential is stored for this company in this environment."
        )
    secret = opened(parts, place, row.secret, "credential")
    if secret is None:
        raise errors.Unavailable(
            "The stored KSeF credential cannot be opened: the key that sealed it is missing in "
            "SECRET_KEYS. Put it back, or store the credential anew (`credential set-certificate` "
            "or `set-token`)."
        )
    return row, secret


def tokens_for_certificate(parts: Parts, place: Place, certificate: Certificate) -> Tokens:
    """A login with a certificate, stored or not. Raises LoginRefused and KSeF's failures."""
    return log_in_with_certificate(
        parts.ksef[place.environment],
        nip=place.company_nip,
        certificate=certificate,
        seconds=parts.timing.login,
        poll=parts.timing.login_poll,
    )


def _warn_of_its_end(parts: Parts, place: Place, valid_until: datetime) -> None:
    if valid_until - clock.now() <= timedelta(seconds=parts.timing.certificate_warning):
        telemetry.warning(
            "the company's certificate ends soon, or has ended",
            valid_until=valid_until.isoformat(),
            **place.log_fields,
        )


def sealed_columns(parts: Parts, place: Place, tokens: Tokens) -> dict[str, Any]:
    """The columns of `ksef_sessions` that hold tokens, the tokens sealed."""
    return {
        "access_token": seal(parts, place, tokens.access.value, "access token"),
        "access_token_valid_until": tokens.access.valid_until,
        "refresh_token": seal(parts, place, tokens.refresh.value, "refresh token"),
        "refresh_token_valid_until": tokens.refresh.valid_until,
    }


def seal(parts: Parts, place: Place, secret: str, purpose: str) -> bytes:
    """A company's secret, sealed for `purpose`: credential, access token or refresh token."""
    return parts.vault.seal(secret, **place.columns, purpose=purpose)


def opened(parts: Parts, place: Place, sealed: bytes, purpose: str) -> str | None:
    """The secret that `seal` sealed; None if none of our keys opens it (another replica's may)."""
    try:
        return parts.vault.open(sealed, **place.columns, purpose=purpose)
    except SealError as error:
        telemetry.warning(
            "a stored secret does not open", reason=str(error), purpose=purpose, **place.log_fields
        )
        return None


def open_secret(parts: Parts, place: Place, sealed: bytes, purpose: str) -> str:
    secret = opened(parts, place, sealed, purpose)
    if secret is None:
        raise errors.Unavailable("A stored KSeF secret cannot be opened.")
    return secret
