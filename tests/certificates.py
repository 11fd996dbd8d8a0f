"""Certificates for tests, made to order with the cryptography library."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

NIP = "5265877635"
KINDS = ("rsa", "ec")
CURVES = {
    "ec": ec.SECP256R1(),
    "p384": ec.SECP384R1(),
    "p521": ec.SECP521R1(),
    "secp256k1": ec.SECP256K1(),
}
SEAL = ((NameOID.ORGANIZATION_IDENTIFIER, f"VATPL-{NIP}"),)
PERSON = ((NameOID.SERIAL_NUMBER, "PNOPL-88102341294"),)
NOBODY: tuple[Any, ...] = ()
_USES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
_QC_STATEMENTS = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.3")


@dataclass(frozen=True)
class Made:
    """A certificate and its key, in all the forms that files have."""

    key: Any
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex().upper()

    def key_pem(
        self, passphrase: str | None = None, form: PrivateFormat = PrivateFormat.PKCS8
    ) -> bytes:
        return self.key.private_bytes(Encoding.PEM, form, _encryption(passphrase))

    def pkcs12(self, passphrase: str | None = None) -> bytes:
        return pkcs12.serialize_key_and_certificates(
            b"seal", self.key, self.certificate, None, _encryption(passphrase)
        )


def _encryption(passphrase: str | None) -> KeySerializationEncryption:
    return BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()


@lru_cache
def make_key(kind: str, number: int = 0) -> Any:
    """`rsa`, `rsa-1024` or one of CURVES; always the same for a number."""
    if kind in CURVES:
        return ec.generate_private_key(CURVES[kind])
    return rsa.generate_private_key(65537, 1024 if kind == "rsa-1024" else 2048)


def make(
    kind: str = "ec",
    *,
    subject: Any = SEAL,
    days: tuple[float, float] = (-1, 365),
    usage: str | None = "digital_signature",
    qualified: bool = False,
    number: int = 0,
) -> Made:
    """A self-signed certificate, valid between two days reckoned from now."""
    key = make_key(kind, number)
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "Firma")]
        + [x509.NameAttribute(oid, value) for oid, value in subject]
    )
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )
    if usage:
        uses = dict.fromkeys(_USES, False)
        builder = builder.add_extension(x509.KeyUsage(**{**uses, usage: True}), critical=True)
    if qualified:
        statements = x509.UnrecognizedExtension(_QC_STATEMENTS, b"\x30\x00")
        builder = builder.add_extension(statements, critical=False)
    return Made(key, builder.sign(key, hashes.SHA256()))
