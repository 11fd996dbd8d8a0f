"""A certificate before it is stored: read from the operator's files, checked, described."""

from collections.abc import Iterator

from app import errors
from app.account import Account
from app.db.pool import Database
from app.ksef import certificates
from app.ksef.certificates import Certificate, CertificateError


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


def whose(account: Account, certificate: Certificate) -> str:
    """A sentence that tells whose certificate it is, and for which company it is to be used."""
    return (
        f"The certificate's subject is {_who(certificate)}, the company {account.company_nip} "
        f"in {account.environment}."
    )


def _who(certificate: Certificate) -> str:
    identifier = certificate.identifier
    if identifier is None:
        return "known by its fingerprint only"
    return f"{identifier.kind} {identifier.value}"
