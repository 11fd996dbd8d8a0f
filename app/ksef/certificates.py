"""Certificates for logging in to KSeF: reading them from files, and checking them.

A certificate comes as PKCS#12, or as PEM with its key in the same file or in another one. Which
identifiers and kinds of key KSeF accepts: its pages on the XAdES signature and on its own
certificates.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import NameOID, ObjectIdentifier

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

LEAST_RSA_BITS = 2048
CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_OTHER_KEY = "The private key is that of another certificate."
_KEY_BLOCK = re.compile(
    rb"-----BEGIN ((?:ENCRYPTED |RSA |EC )?PRIVATE KEY)-----.+?-----END \1-----", re.DOTALL
)
_QC_STATEMENTS = ObjectIdentifier("1.3.6.1.5.5.7.1.3")
_PEM = b"-----BEGIN "
# The first bytes of a PKCS#12 file: an ASN.1 sequence of any length that begins with version 3.
_PKCS12 = re.compile(rb"\x30(?:[\x00-\x7f]|\x80|[\x81-\x84].{1,4}?)\x02\x01\x03", re.DOTALL)
_IDENTIFIERS = (
    (NameOID.ORGANIZATION_IDENTIFIER, re.compile(r"VATPL.*?([0-9]{10})", re.ASCII), "NIP"),
    (NameOID.SERIAL_NUMBER, re.compile(r"(?:TINPL|NIP).*?([0-9]{10})", re.ASCII), "NIP"),
    (NameOID.SERIAL_NUMBER, re.compile(r"(?:PNOPL|PESEL).*?([0-9]{11})", re.ASCII), "PESEL"),
)


class CertificateError(Exception):
    """The files hold no certificate for logging in; the text says why, without secrets."""


class PassphraseError(CertificateError):
    """A passphrase is missing or wrong."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """How KSeF identifies the certificate's subject; `kind` is NIP or PESEL."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its private key."""

    x509: x509.Certificate
    key: PrivateKey = field(repr=False)

    @property
    def identifier(self) -> Identifier | None:
        """The NIP or PESEL in the subject; an organisation's identifier takes precedence.

        None if KSeF can identify it by its fingerprint only.
        """
        for name, pattern, kind in _IDENTIFIERS:
            for attribute in self.x509.subject.get_attributes_for_oid(name):
                if found := pattern.search(str(attribute.value)):
                    return Identifier(kind, found[1])
        return None

    @property
    def valid_until(self) -> datetime:
        """The end of its validity, in UTC."""
        return self.x509.not_valid_after_utc

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate in upper-case hexadecimal, to which KSeF can grant rights."""
        return self.x509.fingerprint(hashes.SHA256()).hex().upper()

    def to_json(self) -> str:
        """Certificate and key as one text, which must be sealed: the key in it is not encrypted."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        certificate = self.x509.public_bytes(Encoding.PEM)
        pem = {"certificate": certificate.decode(), "key": key.decode()}
        return msgspec.json.encode(pem).decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The certificate that `to_json` wrote."""
        pem = msgspec.json.decode(text)
        key = _known(load_pem_private_key(pem["key"].encode(), password=None))
        return cls(x509.load_pem_x509_certificate(pem["certificate"].encode()), key)


def read(content: bytes, key: bytes | None = None, passphrase: str | None = None) -> Certificate:
    """The certificate in a file, with the private key in the same file or in another one.

    Raises CertificateError if there is no certificate, no key, or the key of another certificate;
    its subclass PassphraseError if the passphrase is missing or wrong.
    """
    if _PKCS12.match(content):
        return _from_pkcs12(content, passphrase)
    certificates = _certificates(content)
    if key is None and not _KEY_BLOCK.search(content):
        raise CertificateError("The file holds no private key: name its file with --key.")
    private_key = _private_key(content if key is None else key, passphrase)
    for certificate in certificates:
        if _belongs(private_key, certificate):
            return Certificate(certificate, private_key)
    raise CertificateError(_OTHER_KEY)


def check(certificate: Certificate, now: datetime) -> None:
    """Raises CertificateError unless KSeF can accept the certificate for a login at `now`."""
    _check_key(certificate.key)
    if now < certificate.x509.not_valid_before_utc:
        begins = certificate.x509.not_valid_before_utc
        raise CertificateError(f"The certificate is not valid yet: only from {begins:%Y-%m-%d}.")
    if now > certificate.valid_until:
        raise CertificateError(f"The certificate expired on {certificate.valid_until:%Y-%m-%d}.")
    if not _may_log_in(certificate.x509):
        raise CertificateError(
            "The certificate is not meant for logging in (its keyUsage lacks digitalSignature), "
            "like KSeF's own certificates of the type Offline."
        )


def _check_key(key: PrivateKey) -> None:
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < LEAST_RSA_BITS:
            raise CertificateError(
                f"Its RSA key has {key.key_size} bits; KSeF wants {LEAST_RSA_BITS} or more."
            )
    elif not isinstance(key.curve, CURVES):
        raise CertificateError(
            f"Its key is on the curve {key.curve.name}; KSeF wants P-256, P-384 or P-521."
        )


def _may_log_in(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except ValueError:
        raise CertificateError("The certificate's extensions cannot be read.") from None
    # Qualified certificates are for signing documents only, but KSeF accepts them for logins.
    return usage.digital_signature or (usage.content_commitment and _is_qualified(certificate))


def _is_qualified(certificate: x509.Certificate) -> bool:
    return any(extension.oid == _QC_STATEMENTS for extension in certificate.extensions)


def _from_pkcs12(content: bytes, passphrase: str | None) -> Certificate:
    try:
        key, certificate, _ = pkcs12.load_key_and_certificates(content, _encoded(passphrase))
    except ValueError:
        raise _wrong_passphrase(passphrase) from None
    except UnsupportedAlgorithm:
        raise CertificateError("The file is encrypted in a way that is not supported.") from None
    if certificate is None or key is None:
        raise CertificateError("The PKCS#12 file holds no certificate with its private key.")
    known = _known(key)
    if not _belongs(known, certificate):
        raise CertificateError(_OTHER_KEY)
    return Certificate(certificate, known)


def _belongs(key: PrivateKey, certificate: x509.Certificate) -> bool:
    try:
        return certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):  # the certificate's key is of an unknown kind
        return False


def _certificates(content: bytes) -> list[x509.Certificate]:
    try:
        if _PEM in content:
            return x509.load_pem_x509_certificates(content)
        return [x509.load_der_x509_certificate(content)]
    except ValueError:
        raise CertificateError("The file is not a certificate (PKCS#12, PEM or DER).") from None


def _private_key(content: bytes, passphrase: str | None) -> PrivateKey:
    block = _KEY_BLOCK.search(content)
    if block is None:
        raise CertificateError("The key's file holds no private key in PEM.")
    encrypted = b"ENCRYPTED" in block[0]
    if encrypted and passphrase is None:
        raise _wrong_passphrase(None)
    try:
        key = load_pem_private_key(block[0], _encoded(passphrase) if encrypted else None)
    except (ValueError, TypeError):  # TypeError: the passphrase is empty
        if encrypted:
            raise _wrong_passphrase(passphrase) from None
        raise CertificateError("The private key cannot be read.") from None
    except UnsupportedAlgorithm:
        raise CertificateError("The private key is of a kind that is not supported.") from None
    return _known(key)


def _known(key: object) -> PrivateKey:
    if not isinstance(key, PrivateKey):
        raise CertificateError("The key is neither an RSA nor an elliptic curve one.")
    return key


def _encoded(passphrase: str | None) -> bytes | None:
    return None if passphrase is None else passphrase.encode()


def _wrong_passphrase(given: str | None) -> PassphraseError:
    if given is None:
        return PassphraseError("The private key is encrypted: give its passphrase.")
    return PassphraseError("The passphrase is wrong, or the file is damaged.")
