"""Login with a certificate: what is verified, which certificates may, what the UPO says of it."""

import hashlib
import re

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from lxml import etree
from signxml.algorithms import SignatureMethod
from signxml.xades import XAdESSigner

from sandbox.control import ControlError
from tests.certificates import KINDS, NOBODY, PERSON, make
from tests.sandbox.ksef_client import (
    NIP,
    OTHER_NIP,
    base64_text,
    invoice_xml,
    login_document,
)

SIGNATURE = "{http://www.w3.org/2000/09/xmldsig#}Signature"


@pytest.fixture
def challenge(make_client):
    return make_client().post("/auth/challenge").json()["challenge"]


def codes(answer):
    assert answer.status_code == 400, answer.text
    return [error["code"] for error in answer.json()["errors"]]


def tree(document, change):
    """The document after a change of its tree."""
    root = etree.fromstring(document)
    change(root, root.find(SIGNATURE))
    return etree.tostring(root)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_login_with_a_certificate(make_client, kind, version):
    client = make_client()
    namespace = f"http://ksef.mf.gov.pl/auth/token/{version}"
    started = client.start_certificate_login(make(kind), namespace=namespace)

    assert started.status_code == 202
    assert client.login_status()["code"] == 100
    assert client.settled_login()["code"] == 200
    answer = client.get(f"/auth/{client.login_reference}", bearer=client.operation_token).json()
    assert answer["authenticationMethodInfo"]["category"] == "XadesSignature"
    assert client.redeem().status_code == 200
    assert client.get("/rate-limits").status_code == 200
    assert client.post("/auth/token/refresh", bearer=client.refresh_token).status_code == 200


def test_the_upo_names_the_signed_document(make_client, control):
    client = make_client()
    document = login_document(make(), challenge=client.post("/auth/challenge").json()["challenge"])
    client.send_login_document(document)
    client.settled_login()
    client.redeem()
    control.freeze()
    session = client.open_session()
    reference = session.send(invoice_xml("FV/1"))
    control.advance(5)

    upo = client.get(f"/sessions/{session.reference}/invoices/{reference}/upo")
    root = etree.fromstring(upo.content)
    texts = root.xpath("//*[local-name()='SkrotDokumentuUwierzytelniajacego']/text()")
    assert texts == [base64_text(hashlib.sha256(document).digest())]
    assert not root.xpath("//*[local-name()='NumerReferencyjnyTokenaKSeF']")


# -- which certificates may -----------------------------------------------------------------


@pytest.mark.parametrize("environment", ["demo", "prod"])
def test_demo_and_prod_know_only_registered_ones(make_client, control, environment):
    made = make()
    client = make_client(environment)
    client.start_certificate_login(made)
    status = client.settled_login()
    assert (status["code"], status["details"]) == (460, ["Niezaufany łańcuch certyfikatów"])

    fingerprint = control.add_certificate(environment, NIP, made.pem.decode())
    assert fingerprint == made.fingerprint
    assert make_client(environment).log_in_with_certificate(made).access_token

    # Rights are given to a certificate for one company after the other.
    other = make_client(environment, OTHER_NIP)
    other.start_certificate_login(made)
    assert other.settled_login()["code"] == 415
    with_colons = ":".join(re.findall("..", made.fingerprint.lower()))
    control.add_certificate(environment, OTHER_NIP, fingerprint=with_colons)
    assert make_client(environment, OTHER_NIP).log_in_with_certificate(made).access_token


def test_test_takes_any_unless_the_chain_is_to_be_verified(make_client, control):
    made = make(subject=PERSON)
    assert make_client().log_in_with_certificate(made).access_token
    strict = make_client()
    strict.start_certificate_login(made, query="?verifyCertificateChain=true")
    assert strict.settled_login()["code"] == 460
    control.add_certificate("test", NIP, made.pem.decode())
    strict.start_certificate_login(made, query="?verifyCertificateChain=True")
    assert strict.settled_login()["code"] == 200
    assert codes(strict.start_certificate_login(made, query="?verifyCertificateChain=x")) == [21405]


@pytest.mark.parametrize("outcome", [415, 425, 460, 480, 550])
def test_the_outcome_of_logins_can_be_chosen(make_client, control, outcome):
    made = make()
    details = ["Certyfikat odwołany"] if outcome == 460 else None
    control.add_certificate("test", NIP, made.pem.decode(), outcome=outcome, details=details)
    client = make_client()
    client.start_certificate_login(made)
    status = client.settled_login()
    assert status["code"] == outcome
    assert details is None or status["details"] == details
    assert codes(client.redeem()) == [21301]


def test_a_certificate_revoked_later_ends_the_refreshing(make_client, control):
    made = make()
    fingerprint = control.add_certificate("test", NIP, made.pem.decode())
    client = make_client().log_in_with_certificate(made)
    assert control.set_certificate_outcome("test", 460, fingerprint=fingerprint) == 1
    assert codes(client.post("/auth/token/refresh", bearer=client.refresh_token)) == [21301]
    assert control.set_certificate_outcome("test", 200, nip=NIP) == 1
    assert client.post("/auth/token/refresh", bearer=client.refresh_token).status_code == 200


@pytest.mark.parametrize("days", [(-30, -1), (1, 30)], ids=["expired", "not yet valid"])
def test_a_certificate_out_of_its_time(make_client, control, days):
    made = make(days=days)
    control.add_certificate("test", NIP, made.pem.decode())
    client = make_client()
    client.start_certificate_login(made)
    status = client.settled_login()
    assert (status["code"], status["details"]) == (460, ["Nieważny certyfikat"])


def test_time_runs_out_by_the_clock_of_the_sandbox(make_client, control):
    client = make_client()
    control.advance(366 * 86400)
    client.start_certificate_login(make())
    assert client.settled_login()["code"] == 460


@pytest.mark.parametrize(
    ("subject", "subject_type", "fine"),
    [
        (NOBODY, "certificateFingerprint", True),
        (NOBODY, "certificateSubject", False),
        (PERSON, "certificateSubject", True),
        (PERSON, "certificateFingerprint", True),
    ],
)
def test_the_subject_type_fits_the_certificate(make_client, subject, subject_type, fine):
    answer = make_client().start_certificate_login(make(subject=subject), subject_type=subject_type)
    if fine:
        assert answer.status_code == 202
    else:
        assert codes(answer) == [21117]


def test_a_key_that_is_too_short(make_client):
    assert codes(make_client().start_certificate_login(make("rsa-1024"))) == [21115]


@pytest.mark.parametrize("kind", ["p384", "p521"])
def test_longer_elliptic_keys_with_their_digests(make_client, challenge, kind):
    made = make(kind)
    assert make_client().start_certificate_login(made).status_code == 202

    method = {"p384": SignatureMethod.ECDSA_SHA384, "p521": SignatureMethod.ECDSA_SHA512}[kind]
    document = login_document(made, challenge=challenge, method=method)
    tampered = document.replace(NIP.encode(), OTHER_NIP.encode())
    assert codes(make_client().send_login_document(tampered)) == [9105]
    assert make_client().send_login_document(document).status_code == 202


def test_wrong_orders_to_the_control_plane(control):
    for wrong in (
        {"fingerprint": "AB"},
        {"certificate": "no PEM"},
        {},
    ):
        with pytest.raises(ControlError, match="400"):
            control.add_certificate("test", NIP, **wrong)
    with pytest.raises(ControlError, match="400"):
        control.add_certificate("test", "123", fingerprint="A" * 64)
    with pytest.raises(ControlError, match="404"):
        control.set_certificate_outcome("test", 460, nip=NIP)
    with pytest.raises(ControlError, match="404"):
        control.set_certificate_outcome("test", 460)


# -- the document ---------------------------------------------------------------------------


def test_a_challenge_works_once_and_for_ten_minutes(make_client, control):
    client = make_client()
    control.freeze()
    value = client.post("/auth/challenge").json()["challenge"]
    document = login_document(make(), challenge=value)
    assert client.send_login_document(document).status_code == 202
    assert codes(client.send_login_document(document)) == [21111]
    late = login_document(make(), challenge=client.post("/auth/challenge").json()["challenge"])
    control.advance(600)
    assert codes(client.send_login_document(late)) == [21111]
    unknown = "20260101-CR-0000000000-0000000000-00"
    assert codes(client.start_certificate_login(make(), challenge=unknown)) == [21111]


def test_a_challenge_of_another_environment(make_client, challenge):
    document = login_document(make(), challenge=challenge)
    assert codes(make_client("demo").send_login_document(document)) == [21111]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda document: b"", 21001),
        (lambda document: b" \n", 21001),
        (lambda document: document[:-5], 9101),
        (lambda document: b"<!DOCTYPE x>" + document, 9101),
        (lambda document: document.replace(b"<Nip>", b"\xff<Nip>"), 21217),
        (lambda document: tree(document, lambda root, signature: root.remove(signature)), 9102),
        (
            lambda document: tree(
                document,
                lambda root, signature: root.append(
                    etree.fromstring(etree.tostring(signature))
                ),
            ),
            9103,
        ),
        (
            lambda document: tree(
                document,
                lambda root, signature: root[0].append(signature),
            ),
            9101,
        ),
        (lambda document: document.replace(NIP.encode(), OTHER_NIP.encode()), 9105),
        (lambda document: re.sub(rb"-CR-.{10}", b"-CR-0123456789", document), 9105),
        (lambda document: re.sub(rb"(SignatureValue>)....", rb"\1AAAA", document, count=1), 9105),
        (lambda document: re.sub(rb"SigningTime>2", b"SigningTime>3", document), 9105),
        (lambda document: re.sub(rb"X509Certificate>MII", b"X509Certificate>AII", document), 21115),
        (
            lambda document: re.sub(
                rb"<ds:X509Certificate>.+?</ds:X509Certificate>", b"", document, flags=re.S
            ),
            21115,
        ),
    ],
)  # fmt: skip
def test_documents_that_are_spoilt(make_client, challenge, spoil, code):
    document = login_document(make(), challenge=challenge)
    client = make_client()
    assert codes(client.send_login_document(spoil(document))) == [code]
    # The challenge of a document that could not be read is still good.
    assert client.send_login_document(document).status_code == 202


def test_a_certificate_that_did_not_sign(make_client, challenge):
    """Somebody else's certificate in place of the signer's own."""
    other = re.sub(r"-----.+?-----|\s", "", make("ec", number=1).pem.decode())
    document = re.sub(
        rb"(<ds:X509Certificate>).+?(</ds:X509Certificate>)",
        rb"\g<1>" + other.encode() + rb"\g<2>",
        login_document(make(), challenge=challenge),
        flags=re.S,
    )
    assert codes(make_client().send_login_document(document)) == [9105]


def test_a_signature_that_does_not_cover_the_document(make_client, challenge):
    """The right signature of an element, in a document in which the rest can be changed."""
    root = etree.fromstring(
        '<AuthTokenRequest xmlns="http://ksef.mf.gov.pl/auth/token/2.1">'
        f'<Challenge Id="part">{challenge}</Challenge>'
        f"<ContextIdentifier><Nip>{NIP}</Nip></ContextIdentifier>"
        "<SubjectIdentifierType>certificateSubject</SubjectIdentifierType></AuthTokenRequest>"
    )
    made = make()
    signed = XAdESSigner(signature_algorithm=SignatureMethod.ECDSA_SHA256).sign(
        root, key=made.key, cert=[made.certificate], reference_uri="#part"
    )
    document = etree.tostring(signed).replace(NIP.encode(), OTHER_NIP.encode())
    answer = make_client().send_login_document(document)
    assert codes(answer) == [9105]
    assert answer.json()["errors"][0]["details"] == ["Podpis nie obejmuje dokumentu."]


CHALLENGE = "<Challenge>{challenge}</Challenge>"
CONTEXT = f"<ContextIdentifier><Nip>{NIP}</Nip></ContextIdentifier>"
SUBJECT = "<SubjectIdentifierType>certificateSubject</SubjectIdentifierType>"
POLICY = "<AuthorizationPolicy><AllowedIps>{}</AllowedIps></AuthorizationPolicy>"
ADDRESS, RANGE = "<Ip4Address>10.0.0.1</Ip4Address>", "<Ip4Range>10.0.0.1-10.0.0.9</Ip4Range>"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (CHALLENGE + CONTEXT + SUBJECT, None),
        (f"\n <!-- c -->{CHALLENGE}\n {CONTEXT} {SUBJECT}\n", None),
        (CHALLENGE + CONTEXT + SUBJECT + POLICY.format(ADDRESS + RANGE), None),
        (CHALLENGE + CONTEXT + SUBJECT + POLICY.format(RANGE + ADDRESS), 21401),
        (CHALLENGE + CONTEXT + SUBJECT + POLICY.format("<Ip6/>"), 21401),
        (CHALLENGE + CONTEXT + POLICY.format(ADDRESS) + SUBJECT, 21401),
        (CONTEXT + CHALLENGE + SUBJECT, 21401),
        (CHALLENGE + SUBJECT + CONTEXT, 21401),
        (CHALLENGE + CONTEXT, 21401),
        (CHALLENGE + CONTEXT + SUBJECT + "<More/>", 21401),
        (CHALLENGE + CONTEXT + '<SubjectIdentifierType xmlns="urn:x"/>', 21401),
        ("<Challenge>x</Challenge>" + CONTEXT + SUBJECT, 21401),
        (CHALLENGE + "<ContextIdentifier/>" + SUBJECT, 21401),
        (CHALLENGE + CONTEXT.replace(NIP, "0265877635") + SUBJECT, 21401),
        (CHALLENGE + CONTEXT.replace(NIP, f" {NIP}") + SUBJECT, 21401),
        (CHALLENGE + CONTEXT + SUBJECT.replace("Subject<", "Thumb<"), 21401),
        (CHALLENGE + CONTEXT.replace("Nip>", "InternalId>") + SUBJECT, 21117),
        (CHALLENGE + CONTEXT.replace("Nip>", "Pesel>") + SUBJECT, 21401),
    ],
)
def test_the_shape_of_the_document(make_client, challenge, content, code):
    content = content.replace("{challenge}", challenge)
    answer = make_client().start_certificate_login(make(), content=content)
    if code is None:
        assert answer.status_code == 202, answer.text
    else:
        assert codes(answer) == [code]


def test_another_namespace(make_client):
    answer = make_client().start_certificate_login(make(), namespace="http://example.com/auth")
    assert codes(answer) == [21401]


def test_the_xpath_transform_that_ksef_allows(make_client, challenge):
    """Made by hand, as signxml writes none: the document's digest, then the signature again."""
    made = make("rsa")
    document = login_document(made, challenge=challenge)
    enveloped = b'<ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>'
    xpath = (
        b'<ds:Transform Algorithm="http://www.w3.org/TR/1999/REC-xpath-19991116">'
        b"<ds:XPath>not(ancestor-or-self::ds:Signature)</ds:XPath></ds:Transform>"
    )
    assert enveloped in document
    root = etree.fromstring(document.replace(enveloped, xpath))
    # Both transforms leave the same bytes: only the signature over the references is another.
    signed_info = root.find(f".//{SIGNATURE.replace('Signature', 'SignedInfo')}")
    value = root.find(f".//{SIGNATURE}Value")
    # For a document without xml: attributes C14N 1.1 and 1.0 are the same.
    content = etree.tostring(signed_info, method="c14n")
    value.text = base64_text(made.key.sign(content, padding.PKCS1v15(), hashes.SHA256()))
    assert make_client().send_login_document(etree.tostring(root)).status_code == 202

    tampered = etree.tostring(root).replace(NIP.encode(), OTHER_NIP.encode())
    assert codes(make_client().send_login_document(tampered)) == [9105]


def test_a_doubled_slash_after_the_version_is_forgiven(client):
    assert client.get("//rate-limits").status_code == 200
    assert client.get("/sessions//x").status_code == 404


def test_a_login_is_revoked_by_its_number(make_client):
    one, two = (make_client().log_in_with_certificate(make()) for _ in range(2))
    stranger = make_client(nip=OTHER_NIP).log_in_with_certificate(make())
    path = f"/auth/sessions/{two.login_reference}"
    assert codes(stranger.call("DELETE", path)) == [21405]
    assert one.call("DELETE", path).status_code == 204
    assert codes(two.post("/auth/token/refresh", bearer=two.refresh_token)) == [21301]
    assert one.post("/auth/token/refresh", bearer=one.refresh_token).status_code == 200
