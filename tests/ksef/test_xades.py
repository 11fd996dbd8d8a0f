"""The signed login document, judged by KSeF's own schema and by two implementations of XAdES."""

import base64
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import responses
from lxml import etree
from signxml.exceptions import InvalidDigest, InvalidSignature
from signxml.xades import XAdESVerifier

from app import errors
from app.ksef import login
from app.ksef.certificates import Certificate
from app.ksef.login import LoginRefused
from app.ksef.metered import Metered
from app.ksef.wire import Challenge
from app.ksef.xades import NAMESPACE, login_request
from tests.certificates import KINDS, NIP, NOBODY, PERSON, Made, make
from tests.ksef import answers
from tests.ksef.conftest import URL

CHALLENGE = Challenge("20250625-CR-20F5EE4000-DA48AE4124-46", 1750842000123)
DS = "{http://www.w3.org/2000/09/xmldsig#}"


def signed(made: Made) -> bytes:
    certificate = Certificate(made.certificate, made.key)
    return login_request(certificate, nip=NIP, challenge=CHALLENGE)


@pytest.mark.parametrize("kind", [*KINDS, "p384", "p521"])
class TestSignature:
    def test_signxml_verifies_it_and_it_covers_the_document(self, kind: str) -> None:
        made = make(kind)
        content, properties, key_info = XAdESVerifier().verify(
            signed(made), x509_cert=made.certificate
        )
        texts = [text.strip() for text in content.signed_xml.itertext()]
        assert texts == [CHALLENGE.challenge, NIP, "certificateSubject"]
        assert properties.signed_xml.tag.endswith("SignedProperties")
        assert key_info.signed_xml.tag == f"{DS}KeyInfo"

    def test_signxml_notices_a_change(self, kind: str) -> None:
        made = make(kind)
        changed = signed(made).replace(NIP.encode(), b"7010002137")
        with pytest.raises(InvalidDigest):
            XAdESVerifier().verify(changed, x509_cert=made.certificate)
        with pytest.raises(InvalidSignature):
            XAdESVerifier().verify(signed(made), x509_cert=make(kind, number=1).certificate)

    @pytest.mark.skipif(shutil.which("xmlsec1") is None, reason="xmlsec1 is not installed")
    def test_xmlsec_verifies_it(self, kind: str, tmp_path: Path) -> None:
        made = make(kind)
        trusted, document = tmp_path / "trusted.pem", tmp_path / "document.xml"
        trusted.write_bytes(made.pem)
        ids = [
            argument
            for name in ("SignedProperties", "KeyInfo")
            for argument in ("--id-attr:Id", name)
        ]

        def verify(content: bytes) -> int:
            document.write_bytes(content)
            command = ["xmlsec1", "--verify", "--trusted-pem", str(trusted), *ids, str(document)]
            return subprocess.run(command, capture_output=True).returncode

        assert verify(signed(made)) == 0
        assert verify(signed(made).replace(NIP.encode(), b"7010002137")) != 0

    def test_the_official_schema_accepts_what_is_signed(self, kind: str) -> None:
        folder = Path(os.environ.get("KSEF_OPENAPI", "")).parent
        file = folder / "schemat_auth_v2-1.xsd"
        if "KSEF_OPENAPI" not in os.environ or not file.exists():
            pytest.skip("KSEF_OPENAPI's folder has no schemat_auth_v2-1.xsd")
        schema = etree.XMLSchema(etree.parse(file))
        root = etree.fromstring(signed(make(kind)))
        root.remove(root.find(f"{DS}Signature"))
        schema.assertValid(root)
        root.find(f"{{{NAMESPACE}}}Challenge").text = "x"
        assert not schema.validate(root)


@pytest.mark.fault(24)
def test_it_is_signed_at_ksef_s_time() -> None:
    """And not at that of a machine whose clock may be wrong."""
    root = etree.fromstring(signed(make()))
    times = root.findall(".//{*}SigningTime")
    assert [time.text for time in times] == ["2025-06-25T09:00:00+00:00"]


@pytest.mark.parametrize(("kind", "size"), [("ec", 32), ("p384", 48), ("p521", 66)])
def test_an_elliptic_signature_is_r_and_s_side_by_side(kind: str, size: int) -> None:
    root = etree.fromstring(signed(make(kind)))
    value = base64.b64decode(root.findtext(f".//{DS}SignatureValue"))
    assert len(value) == 2 * size
    method = root.find(f".//{DS}SignatureMethod").get("Algorithm")
    assert method == "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256"


@pytest.mark.parametrize(
    ("subject", "kind"),
    [(PERSON, "certificateSubject"), (NOBODY, "certificateFingerprint")],
    ids=["a person", "nobody"],
)
def test_a_subject_without_identifier_is_named_by_its_fingerprint(subject: Any, kind: str) -> None:
    root = etree.fromstring(signed(make(subject=subject)))
    assert root.findtext(f"{{{NAMESPACE}}}SubjectIdentifierType") == kind


def test_the_key_is_not_in_the_document() -> None:
    made = make()
    inner = re.sub(rb"-----.+?-----|\s", b"", made.key_pem())
    assert inner[40:80] not in re.sub(rb"\s", b"", signed(made))


# -- the login ------------------------------------------------------------------------------


def log_in(metered: Metered) -> Any:
    made = make()
    certificate = Certificate(made.certificate, made.key)
    return login.log_in(metered, certificate, nip=NIP, seconds=5, poll=0.001)


def test_the_challenge_is_answered_with_the_document(
    ksef: responses.RequestsMock, metered: Metered
) -> None:
    ksef.post(f"{URL}/auth/challenge", json=answers.challenge())
    ksef.post(f"{URL}/auth/xades-signature", status=202, json=answers.started_login())
    reference = answers.started_login()["referenceNumber"]
    for code in (100, 200):
        body = {"status": {"code": code, "description": "Opis"}}
        ksef.get(f"{URL}/auth/{reference}", json=body)
    ksef.post(f"{URL}/auth/token/redeem", json=answers.tokens())

    assert log_in(metered).access.value == "access-token"
    request = ksef.calls[1].request
    assert request.headers["Content-Type"] == "application/xml"
    assert "Authorization" not in request.headers
    sent = etree.fromstring(request.body)
    assert sent.findtext(f"{{{NAMESPACE}}}Challenge") == answers.challenge()["challenge"]
    assert sent.findtext(f"{{{NAMESPACE}}}ContextIdentifier/{{{NAMESPACE}}}Nip") == NIP


@pytest.mark.parametrize(
    ("code", "refused"), [(21115, True), (21117, True), (21111, False), (9105, False)]
)
def test_a_call_refused_for_the_certificate_refuses_the_login(
    ksef: responses.RequestsMock, metered: Metered, code: int, refused: bool
) -> None:
    ksef.post(f"{URL}/auth/challenge", json=answers.challenge())
    ksef.post(f"{URL}/auth/xades-signature", status=400, json=answers.problem(code))
    with pytest.raises(errors.KsefError) as caught:
        log_in(metered)
    assert isinstance(caught.value, LoginRefused) is refused
    assert caught.value.ksef is not None
    assert caught.value.ksef.code == code
