"""The credential with which a company logs in to KSeF: stored sealed, used, and refused.

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
from app.account import Account
from app.db.queries import login as queries
from app.ksef import login
from app.ksef.certificates import Certificate
from app.ksef.login import LoginRefused as LoginRefused
from app.ksef.login import TokensLost, remedy
from app.ksef.wire import Tokens
from app.services import outages
from app.services.events import journal
from app.services.operators import audit
from app.services.operators.audit import What
from app.services.replicas.leases import Lease

BLOCKED = 480  # KSeF's security blocked the credential: trying again makes it worse


def store_token(account: Account, ksef_token: str) -> None:
    """Store a KSeF token as the company's credential, sealed; raises as `check_token`."""
    check_token(ksef_token)
    _store(account, "token", ksef_token, None)


def check_token(ksef_token: str) -> None:
    """OperatorError where a text cannot be a KSeF token: with control characters, or in quotes."""
    if not ksef_token or not ksef_token.isprintable() or ksef_token.strip("\"'") != ksef_token:
        raise errors.OperatorError(
            "A KSeF token is one line of printable characters, without quotes around it."
        )


def store_certificate(account: Account, certificate: Certificate) -> None:
    """Store a certificate and its key as the company's credential, sealed."""
    _store(account, "certificate", certificate.to_json(), certificate.valid_until)


def _store(account: Account, method: str, secret: str, valid_until: datetime | None) -> None:
    with account.db.transaction() as connection:
        queries.put_credential(
            connection,
            **account.columns,
            method=method,
            secret=account.seal(secret, "credential"),
            certificate_valid_until=valid_until,
        )
        audit.note(connection, What.CREDENTIAL_STORED, **account.columns, detail=method)


def stored(account: Account) -> tuple[Any, str]:
    """The credential's row (method, certificate_valid_until) and its secret.

    Raises NoKsefCredential, and Unavailable where it does not open.
    """
    row = account.db.run(queries.get_credential, **account.columns)
    if row is None:
        raise errors.NoKsefCredential(
            "No KSeF credential is stored for this company in this environment."
        )
    secret = account.opened(row.secret, "credential")
    if secret is None:
        raise errors.Unavailable(
            "The stored KSeF credential cannot be opened: the key that sealed it is missing in "
            "SECRET_KEYS. Put it back, or store the credential anew (`credential set-certificate` "
            "or `set-token`)."
        )
    return row, secret


def log_in(account: Account) -> tuple[str, Tokens]:
    """Log in with the stored credential: the method (`certificate` or `token`) and the tokens.

    KSeF hands out the tokens of a login once; if that answer is lost, a second login is made.
    Raises NoKsefCredential, LoginRefused, and what a call to KSeF raises.
    """
    try:
        return _log_in_once(account)
    except TokensLost:
        telemetry.warning("the answer to a login was lost", **account.log_fields)
    try:
        return _log_in_once(account)
    except TokensLost as lost:
        raise lost.failure from lost


def _log_in_once(account: Account) -> tuple[str, Tokens]:
    credential, secret = stored(account)
    if credential.method == "certificate":
        _warn_of_its_end(account, credential.certificate_valid_until)
        return "certificate", log_in_with(account, Certificate.from_json(secret))
    return "token", log_in_with(account, secret)


def log_in_with(account: Account, credential: Certificate | str) -> Tokens:
    """A login with a certificate or a KSeF token, stored or not.

    Raises LoginRefused, TokensLost and KSeF's failures.
    """
    timing = account.timing
    return login.log_in(
        account.http,
        credential,
        nip=account.company_nip,
        seconds=timing.login,
        poll=timing.login_poll,
    )


def prove(account: Account, credential: Certificate | str, whose: str = "") -> None:
    """Try a login to KSeF before a credential is stored, and end that session at once.

    `whose`: a sentence for the operator whom KSeF's refusal puzzles. Raises OutageSimulation, and
    OperatorError if KSeF refuses or cannot be asked.
    """
    outages.refuse_if_simulated(account)
    try:
        tokens = log_in_with(account, credential)
    except LoginRefused as error:
        raise errors.OperatorError(
            " ".join(filter(None, (error.in_full, whose, "Nothing was stored.")))
        ) from error
    except errors.KsefFailure as error:
        raise errors.OperatorError(
            f"{error.in_full} Nothing was stored; --no-verify stores it without asking KSeF."
        ) from error
    _end(account, tokens)


def prove_stored(account: Account) -> str:
    """As `prove`, with the stored credential; its method. One that is blocked is not tried.

    Raises what `log_in` raises, and OutageSimulation.
    """
    outages.refuse_if_simulated(account)
    refusal = stored_refusal(account)
    if refusal and refusal.ksef and refusal.ksef.code == BLOCKED:
        raise refusal
    method, tokens = log_in(account)
    _end(account, tokens)
    return method


def _end(account: Account, tokens: Tokens) -> None:
    try:
        login.revoke(account.http, tokens.access.value)
    except errors.KsefFailure:
        telemetry.info("a session made to prove a credential was left to end by itself")


def _warn_of_its_end(account: Account, valid_until: datetime) -> None:
    if valid_until - clock.now() <= timedelta(seconds=account.timing.certificate_warning):
        telemetry.warning(
            "the company's certificate ends soon, or has ended",
            valid_until=valid_until.isoformat(),
            **account.log_fields,
        )


@contextmanager
def refusal_noted(account: Account, lease: Lease, *, repeat: bool) -> Iterator[None]:
    """Log in within the block: a refusal by KSeF is stored with the credential and audited.

    One that is not the same as the last is written to the journal.

    With `repeat`, a refusal that is stored and still holds is raised again before the block.
    """
    row = account.db.run(queries.get_credential, **account.columns)
    before = _refusal(account, row) if repeat else None
    if before and (row.refused_code == BLOCKED or before.retry_after is not None):
        raise before
    try:
        yield
    except LoginRefused as error:
        if row is not None and error.ksef is not None and error.ksef.code is not None:
            with account.db.transaction() as connection:
                code = str(error.ksef.code)
                audit.note(connection, What.KSEF_LOGIN_REFUSED, **account.columns, detail=code)
                if lease.holds(connection):
                    queries.note_refusal(
                        connection,
                        **account.columns,
                        updated_at=row.updated_at,
                        code=error.ksef.code,
                        words="\n".join(_words(error.ksef)),
                    )
                    if row.refused_code != error.ksef.code:
                        journal.note(
                            connection,
                            journal.Kind.CREDENTIAL_REFUSED,
                            **account.columns,
                            data={"code": error.ksef.code},
                            key=lease.holder,
                        )
        raise


def _words(said: errors.KsefAnswer) -> list[str]:
    """What is stored of a refusal, a line for each: KSeF's description, then its details."""
    return [(said.description or "").rstrip("."), *said.details]


def stored_refusal(account: Account) -> LoginRefused | None:
    """KSeF's refusal of the stored credential, if the last login with it was refused."""
    return _refusal(account, account.db.run(queries.get_credential, **account.columns))


def _refusal(account: Account, row: Any) -> LoginRefused | None:
    """The error from its row; `retry_after` is when KSeF is asked again, None if it may be now."""
    if row is None or row.refused_code is None:
        return None
    blocked = row.refused_code == BLOCKED
    description, *details = row.refused_words.split("\n")
    left = 0.0 if blocked else account.timing.refused_pause - row.refused_for
    return LoginRefused(
        f"KSeF refused the company's credential: {description}.{remedy(row.refused_code)}",
        ksef=errors.KsefAnswer(200, row.refused_code, description, details),
        retry_after=math.ceil(left) if left > 0 else None,
    )
