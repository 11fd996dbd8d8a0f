"""An operator's certificate, before it is stored: read, checked, proved by a login."""

from collections.abc import Iterator

from app import errors, telemetry
from app.ksef import certificates
from app.ksef.auth import LoginRefused
from app.ksef.certificates import Certificate, CertificateError
from app.services import logins, outages
from app.services.parts import Parts, Place
from app.services.snapshots import database_now


def read(parts: Parts, content: bytes, key: bytes | None, passphrase: str | None) -> Certificate:
    """The certificate in the content of one or two files, fit for logging in by the database's
    clock.

    Raises OperatorError with the reason, without any secret.
    """
    try:
        certificate = certificates.read(content, key, passphrase)
        certificates.check(certificate, database_now(parts))
    except CertificateError as error:
        raise errors.OperatorError(str(error)) from None
    return certificate


def prove(parts: Parts, place: Place, certificate: Certificate) -> None:
    """Log the company in with the certificate, and end that session at once.

    Raises OutageSimulation, and OperatorError where KSeF refuses or cannot be asked.
    """
    outages.refuse_if_simulated(parts, place)
    try:
        tokens = logins.tokens_for_certificate(parts, place, certificate)
    except LoginRefused as error:
        raise errors.OperatorError(
            f"{error.detail} The certificate's subject is {_who(certificate)}: has it rights for "
            f"{place.company_nip} in {place.environment}? Nothing was stored."
        ) from error
    except errors.KsefFailure as error:
        raise errors.OperatorError(
            f"{error.detail} Nothing was stored; --no-verify stores it without asking KSeF."
        ) from error
    try:
        parts.ksef[place.environment].revoke(tokens.access.value)
    except errors.KsefFailure:
        telemetry.info("a session made to prove a certificate was left to end by itself")


def describe(place: Place, certificate: Certificate) -> Iterator[str]:
    """What an operator should know of it, in lines."""
    yield f"subject: {_who(certificate)}"
    yield f"SHA-256 fingerprint: {certificate.fingerprint}"
    yield f"valid until: {certificate.valid_until:%Y-%m-%d %H:%M} UTC"
    identifier = certificate.identifier
    if identifier is None or identifier.value != place.company_nip:
        yield (
            f"warning: it is not the certificate of {place.company_nip} itself; that of an "
            "employee or an accountant may log in with the rights that KSeF knows of"
        )


def _who(certificate: Certificate) -> str:
    identifier = certificate.identifier
    if identifier is None:
        return "known by its fingerprint only"
    return f"{identifier.kind} {identifier.value}"
