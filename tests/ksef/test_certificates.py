"""Certificates in files: every form they come in, and every reason to refuse one."""

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from app.ksef import certificates
from app.ksef.certificates import Certificate, CertificateError, Identifier, PassphraseError
from tests.certificates import KINDS, NIP, NOBODY, PERSON, Made, make

PASSPHRASE = " zażółć gęślą "


def check(made: Made) -> None:
    certificates.check(Certificate(made.certificate, made.key), datetime.now(UTC))


@pytest.mark.parametrize("kind", KINDS)
class TestForms:
    def test_pkcs12(self, kind: str) -> None:
        made = make(kind)
        assert certificates.read(made.pkcs12()).x509 == made.certificate
        found = certificates.read(made.pkcs12(PASSPHRASE), None, PASSPHRASE)
        assert found.key.private_numbers() == made.key.private_numbers()

    def test_pem_in_one_file_the_key_first_or_last(self, kind: str) -> None:
        made = make(kind)
        for content in (made.pem + made.key_pem(), made.key_pem() + made.pem):
            assert certificates.read(content).x509 == made.certificate

    @pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
    @pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
    def test_pem_in_two_files(self, kind: str, form: PrivateFormat, passphrase: str | None) -> None:
        made = make(kind)
        found = certificates.read(made.pem, made.key_pem(passphrase, form), passphrase)
        assert found.x509 == made.certificate
        assert found.key.private_numbers() == made.key.private_numbers()

    def test_der_with_a_key_in_pem(self, kind: str) -> None:
        made = make(kind)
        der = made.certificate.public_bytes(Encoding.DER)
        assert certificates.read(der, made.key_pem()).x509 == made.certificate

    def test_the_one_of_a_chain_that_the_key_belongs_to(self, kind: str) -> None:
        made, issuer = make(kind), make("rsa", number=1)
        assert certificates.read(issuer.pem + made.pem, made.key_pem()).x509 == made.certificate

    def test_what_is_sealed_opens_again(self, kind: str) -> None:
        made = make(kind)
        before = Certificate(made.certificate, made.key)
        after = Certificate.from_json(before.to_json())
        assert after.x509 == made.certificate
        assert after.key.private_numbers() == made.key.private_numbers()


def test_a_passphrase_that_is_not_needed_does_no_harm() -> None:
    made = make()
    assert certificates.read(made.pem, made.key_pem(), "x").x509 == made.certificate


def test_the_key_does_not_show() -> None:
    made = make()
    assert "key" not in repr(Certificate(made.certificate, made.key)).lower()


class TestRefusals:
    @pytest.mark.parametrize("passphrase", ["wrong", ""])
    def test_a_wrong_passphrase(self, passphrase: str) -> None:
        made = make()
        with pytest.raises(PassphraseError, match="passphrase is wrong"):
            certificates.read(made.pkcs12(PASSPHRASE), None, passphrase)
        with pytest.raises(PassphraseError, match="passphrase is wrong"):
            certificates.read(made.pem, made.key_pem(PASSPHRASE), passphrase)

    def test_no_passphrase(self) -> None:
        made = make()
        with pytest.raises(PassphraseError, match="give its passphrase"):
            certificates.read(made.pkcs12(PASSPHRASE))
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
            with pytest.raises(PassphraseError, match="give its passphrase"):
                certificates.read(made.pem, made.key_pem(PASSPHRASE, form))

    @pytest.mark.parametrize("kind", [*KINDS, "p384"])
    def test_the_key_of_another_certificate(self, kind: str) -> None:
        made, other = make(), make(kind, number=1)
        with pytest.raises(CertificateError, match="of another certificate"):
            certificates.read(made.pem, other.key_pem())

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"hello",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            b"\x30\x82\x00\x10\x00",
            make().key_pem(),
            b"\xff" * 100,
        ],
        ids=["empty", "text", "PEM", "DER", "a key", "bytes"],
    )
    def test_what_is_no_certificate(self, content: bytes) -> None:
        with pytest.raises(CertificateError, match="not a certificate"):
            certificates.read(content, make().key_pem())

    def test_a_broken_pkcs12(self) -> None:
        with pytest.raises(PassphraseError, match="damaged"):
            certificates.read(make().pkcs12()[:-40], None, "x")

    def test_a_certificate_without_its_key(self) -> None:
        with pytest.raises(CertificateError, match="--key"):
            certificates.read(make().pem)
        with pytest.raises(CertificateError, match="no private key in PEM"):
            certificates.read(make().pem, b"hello")
        with pytest.raises(CertificateError, match="no private key in PEM"):
            certificates.read(make().pem, make().pem)

    def test_a_key_of_another_kind(self) -> None:
        key = ed25519.Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with pytest.raises(CertificateError, match="neither an RSA nor"):
            certificates.read(make().pem, pem)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"days": (-30, -1)}, "expired on"),
            ({"days": (1, 30)}, "not valid yet"),
            ({"usage": "content_commitment"}, "not meant for logging in"),
            ({"usage": "key_encipherment", "qualified": True}, "not meant for logging in"),
            ({"kind": "rsa-1024"}, "1024 bits"),
            ({"kind": "secp256k1"}, "wants P-256, P-384 or P-521"),
        ],
        ids=str,
    )
    def test_one_that_cannot_log_in(self, options: dict[str, object], words: str) -> None:
        made = make(**options)  # type: ignore[arg-type]
        with pytest.raises(CertificateError, match=words):
            check(made)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"kind": "rsa"},
            {"kind": "p384"},
            {"kind": "p521"},
            {"usage": None},
            {"usage": "content_commitment", "qualified": True},
        ],
        ids=str,
    )
    def test_one_that_can(self, options: dict[str, object]) -> None:
        check(make(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("subject", "identifier"),
    [
        (((NameOID.ORGANIZATION_IDENTIFIER, f"VATPL-{NIP}"),), Identifier("NIP", NIP)),
        (((NameOID.SERIAL_NUMBER, f"TINPL-{NIP}"),), Identifier("NIP", NIP)),
        (((NameOID.SERIAL_NUMBER, f"NIP: {NIP}"),), Identifier("NIP", NIP)),
        (PERSON, Identifier("PESEL", "88102341294")),
        (((NameOID.SERIAL_NUMBER, "12345678901"),), None),
        (((NameOID.ORGANIZATION_IDENTIFIER, "VATDE-123456789"),), None),
        (NOBODY, None),
    ],
    ids=str,
)
def test_what_ksef_reads_in_a_subject(subject: object, identifier: Identifier | None) -> None:
    made = make(subject=subject)
    assert Certificate(made.certificate, made.key).identifier == identifier
