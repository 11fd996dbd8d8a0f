"""The Ministry's keys: RSA pairs for what clients encrypt, and those that sign UPOs."""

import base64
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from sandbox import identifiers
from sandbox.clock import stamp

USAGES: Final = ("KsefTokenEncryption", "SymmetricKeyEncryption")
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
# Generating is left to a few threads so that the start of the sandbox does not wait for it.
_GENERATORS: Final = ThreadPoolExecutor(2, thread_name_prefix="sandbox-keys")


@dataclass(frozen=True)
class KeyPair:
    """An RSA key with its self-signed certificate, as KSeF publishes it."""

    usage: str
    private_key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @property
    def public_key_id(self) -> str:
        """Base64 SHA-256 of the DER public key: what clients name in `publicKeyId`."""
        der = self.private_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return identifiers.sha256_base64(der)

    def decrypt(self, ciphertext: bytes) -> bytes:
        """RSA-OAEP with SHA-256 and MGF1-SHA-256; ValueError when it does not fit."""
        return self.private_key.decrypt(ciphertext, _OAEP)

    def as_json(self) -> dict[str, Any]:
        """One element of GET /security/public-key-certificates."""
        certificate = self.certificate
        der = certificate.public_bytes(serialization.Encoding.DER)
        return {
            "certificate": base64.b64encode(der).decode(),
            "certificateId": identifiers.sha256_base64(der),
            "publicKeyId": self.public_key_id,
            "validFrom": stamp(certificate.not_valid_before_utc),
            "validTo": stamp(certificate.not_valid_after_utc),
            "usage": [self.usage],
        }


class KeyRing:
    """The encryption keys of one environment; the newest of each usage comes last."""

    def __init__(self, environment: str) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._pairs: list[Future[KeyPair]] = []
        self.rotate()

    def published(self) -> list[KeyPair]:
        """The pairs that clients may use now."""
        with self._lock:
            pairs = list(self._pairs)
        return [pair.result() for pair in pairs]

    def find(self, usage: str, public_key_id: str | None) -> KeyPair | None:
        """The pair named by `public_key_id`, or the newest of that usage when it is None."""
        fitting = [pair for pair in self.published() if pair.usage == usage]
        if public_key_id is None:
            return fitting[-1]
        return next((pair for pair in fitting if pair.public_key_id == public_key_id), None)

    def rotate(self, *, keep_old: bool = False) -> None:
        """Makes new pairs; the old ones are withdrawn at once unless `keep_old`."""
        fresh = [_GENERATORS.submit(_make_pair, self._environment, usage) for usage in USAGES]
        with self._lock:
            self._pairs = [*self._pairs, *fresh] if keep_old else fresh


@dataclass(frozen=True)
class Signer:
    """A key that signs UPOs, with its certificate."""

    private_key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def sha256(self) -> str:
        """By which a service knows the certificate: in capital hex digits."""
        return self.certificate.fingerprint(hashes.SHA256()).hex().upper()

    def as_json(self) -> dict[str, str]:
        """The certificate, PEM, and its SHA-256."""
        pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()
        return {"sha256": self.sha256, "certificate": pem}


class Signers:
    """Who signs the UPOs of one environment: certificates of a CA of the environment's own.

    `current` is an RSA key, as the Ministry's is; `elliptic` signs on demand only. Both are known
    from the start; one that `rotate` makes is known to nobody yet.
    """

    def __init__(self, environment: str) -> None:
        self._authority = ec.generate_private_key(ec.SECP256R1())
        self._issuer = _own_name(f"SANDBOX SMIME CA {environment}")
        self._at_start = [
            _GENERATORS.submit(self._make, True),
            _GENERATORS.submit(self._make, False),
        ]
        self.reset()

    def reset(self) -> None:
        """Back to the signers from the start."""
        self._signers = list(self._at_start)

    @property
    def known(self) -> list[Signer]:
        """All of them, oldest first."""
        return [signer.result() for signer in self._signers]

    @property
    def current(self) -> Signer:
        """The one that signs now."""
        return next(s for s in reversed(self.known) if isinstance(s.private_key, rsa.RSAPrivateKey))

    @property
    def elliptic(self) -> Signer:
        """The one with an elliptic key."""
        return next(s for s in self.known if isinstance(s.private_key, ec.EllipticCurvePrivateKey))

    def rotate(self) -> None:
        """From now on another one signs."""
        self._signers.append(_GENERATORS.submit(self._make, True))

    def stranger(self) -> Signer:
        """Somebody whom the CA knows, but who does not sign UPOs."""
        return self._make(False)

    def _make(self, is_rsa: bool) -> Signer:
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
        if is_rsa:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
        name = _name(
            ORGANIZATION_IDENTIFIER="VATPL-5260250274",
            COUNTRY_NAME="PL",
            ORGANIZATION_NAME="Ministerstwo Finansów (SANDBOX)",
            COMMON_NAME="Ministerstwo Finansów (SANDBOX)",
        )
        return Signer(key, _certify(key, name, (self._authority, self._issuer)))


def make_seal(nip: str, organization: str) -> bytes:
    """A company's certificate with its key in PEM, such as may log in to KSeF: a secret."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(
        COUNTRY_NAME="PL",
        ORGANIZATION_NAME=organization,
        ORGANIZATION_IDENTIFIER=f"VATPL-{nip}",
        COMMON_NAME=organization,
    )
    return _certify(key, name).public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _make_pair(environment: str, usage: str) -> KeyPair:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return KeyPair(usage, key, _certify(key, _own_name(f"KSeF SANDBOX {environment} {usage}")))


def _own_name(common_name: str) -> x509.Name:
    return _name(COUNTRY_NAME="PL", ORGANIZATION_NAME="SANDBOX", COMMON_NAME=common_name)


def _name(**attributes: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(getattr(x509.NameOID, oid), text) for oid, text in attributes.items()]
    )


def _certify(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    name: x509.Name,
    authority: tuple[ec.EllipticCurvePrivateKey, x509.Name] | None = None,
) -> x509.Certificate:
    """A certificate of an authority (its key and name), or a self-signed one."""
    now = datetime.now(UTC)
    issuing_key, issuer = authority or (key, name)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=730))
        .sign(issuing_key, hashes.SHA256())
    )
