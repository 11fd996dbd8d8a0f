"""A certificate before it is stored: read from the operator's files, checked, tried in a login."""

from collections.abc import Iterator

from app import errors, telemetry
from app.account import Account
from app.db.pool import Database
from app.ksef import certificates, login
from app.ksef.certificates import Certificate, CertificateError
from app.ksef.login import LoginRefused
from app.services import outages
from app.services.login import credentials


def read(db: Database, content: bytes, key: bytes | None, passphrase: str | None) -> Certificate:
    """The certificate with its key, from the content of one or two files (`key`: the second one).

    Raises OperatorError, which says why it cannot be used for logging in today.
    """
    try:
        certificate = certificates.read(content, key, passphrase)
        certificates.check(certificate, db.now())
    except CertificateError as error:
        raise errors.OperatorError(str(error)) from None
    return certificate


def prove(account: Account, certificate: Certificate) -> None:
    """Try a login to KSeF with the certificate, and end that session at once.

    Raises OutageSimulation, and OperatorError if KSeF refuses or cannot be asked.
    """
    outages.refuse_if_simulated(account)
    try:
        tokens = credentials.log_in_with(account, certificate)
    except LoginRefused as error:
        raise errors.OperatorError(
            f"{error.in_full} The certificate's subject is {_who(certificate)}, the company "
            f"{account.company_nip} in {account.environment}. Nothing was stored."
        ) from error
    except errors.KsefFailure as error:
        raise errors.OperatorError(
            f"{error.in_full} Nothing was stored; --no-verify stores it without asking KSeF."
        ) from error
    try:
        login.revoke(account.http, tokens.access.value)
    except errors.KsefFailure:
        telemetry.info("a session made to prove a certificate was left to end by itself")


def describe(account: Account, certificate: Certificate) -> Iterator[str]:
    """Lines about the certificate for the operator; a warning if it is not the company's own."""
    yield f"subject: {_who(certificate)}"
    yield f"SHA-256 fingerprint: {certificate.fingerprint}"
    yield f"valid until: {certificate.valid_until:%Y-%m-%d %H:%M} UTC"
    identifier = certificate.identifier
    if identifier is None or identifier.value != account.company_nip:
        yield (
            f"warning: it is not the certificate of {account.company_nip} itself; one of an "
            "employee or an accountant works only with the rights that they were given in KSeF"
        )


def _who(certificate: Certificate) -> str:
    identifier = certificate.identifier
    if identifier is None:
        return "known by its fingerprint only"
    return f"{identifier.kind} {identifier.value}"
