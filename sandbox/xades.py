"""Reads a signed login document as KSeF does: its shape, its signature, its certificate.

Only the enveloped form is read, with the transforms that signxml knows and the XPath one that
leaves signatures out (`_Verifier`), and without SHA-1.
"""

from __future__ import annotations

import base64
import copy
import re
from dataclasses import dataclass, replace
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from lxml import etree
from signxml.exceptions import InvalidInput, InvalidSignature
from signxml.xades.xades import XAdESSignatureConfiguration, XAdESVerifier

from sandbox import identifiers
from sandbox.problems import BadRequest

SUBJECT_TYPES: Final = ("certificateSubject", "certificateFingerprint")
_NAMESPACES: Final = (
    "http://ksef.mf.gov.pl/auth/token/2.0",
    "http://ksef.mf.gov.pl/auth/token/2.1",
)
_CONTEXTS: Final = ("Nip", "InternalId", "NipVatUe", "PeppolId")
_ALLOWED_IPS: Final = ("Ip4Address", "Ip4Range", "Ip4Mask")
_CHALLENGE: Final = re.compile(r"\d{8}-CR-[A-F0-9]{10}-[A-F0-9]{10}-[A-F0-9]{2}", re.A)
_SIGNATURE: Final = "{http://www.w3.org/2000/09/xmldsig#}Signature"
_CERTIFICATE: Final = ".//{http://www.w3.org/2000/09/xmldsig#}X509Certificate"
_SUBJECTS: Final = (
    (x509.NameOID.ORGANIZATION_IDENTIFIER, re.compile(r"VATPL.*?(\d{10})", re.A)),
    (x509.NameOID.SERIAL_NUMBER, re.compile(r"(?:PNOPL|PESEL).*?(\d{11})", re.A)),
    (x509.NameOID.SERIAL_NUMBER, re.compile(r"(?:TINPL|NIP).*?(\d{10})", re.A)),
)
# Any number of references: what must be among them is looked for.
_EXPECTED: Final = XAdESSignatureConfiguration(expect_references=True, location="./")


_XPATH_TRANSFORM: Final = "http://www.w3.org/TR/1999/REC-xpath-19991116"
_WITHOUT_SIGNATURES: Final = "not(ancestor-or-self::ds:Signature)"


class _Verifier(XAdESVerifier):
    """Knows one transform more: KSeF allows it, and signing programs use it."""

    def _apply_transforms(
        self, payload: Any, *, transforms_node: etree._Element, signature: etree._Element
    ) -> Any:
        if transforms_node is not None and _leaves_signatures_out(transforms_node):
            etree.strip_elements(payload, _SIGNATURE, with_tail=False)
        return super()._apply_transforms(
            payload, transforms_node=transforms_node, signature=signature
        )


def _leaves_signatures_out(transforms: etree._Element) -> bool:
    return any(
        transform.get("Algorithm") == _XPATH_TRANSFORM
        and "".join("".join(transform.itertext()).split()) == _WITHOUT_SIGNATURES
        for transform in transforms.iterchildren(etree.Element)
    )


@dataclass(frozen=True)
class LoginDocument:
    """What was signed, and by whom; `sha256` (Base64) is that of the document as it was sent."""

    challenge: str
    nip: str
    subject_type: str
    certificate: x509.Certificate
    sha256: str


def read(content: bytes) -> LoginDocument:
    """The document, verified. BadRequest with KSeF's code for what is wrong with it."""
    root = _parse(content)
    signature = _only_signature(root)
    _check_shape(root)
    certificate = _certificate(signature)
    signed = _verified(root, certificate)
    context = signed[1][0]
    nip = context.text or ""
    if etree.QName(context).localname != "Nip":
        raise BadRequest(21117, "Piaskownica zna tylko kontekst Nip.")
    subject_type = _token(signed[2])
    if subject_type == "certificateSubject" and not _has_identifier(certificate):
        raise BadRequest(21117, "Certyfikat nie zawiera identyfikatora podmiotu.")
    return LoginDocument(
        challenge=_token(signed[0]),
        nip=nip,
        subject_type=subject_type,
        certificate=certificate,
        sha256=identifiers.sha256_base64(content),
    )


def _parse(content: bytes) -> etree._Element:
    if not content.strip():
        raise BadRequest(21001)
    try:
        content.decode()
    except UnicodeDecodeError:
        raise BadRequest(21217) from None
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise BadRequest(9101, str(error)) from None
    if root.getroottree().docinfo.doctype:
        raise BadRequest(9101, "Dokument zawiera niedozwoloną deklarację DOCTYPE.")
    return root


def _only_signature(root: etree._Element) -> etree._Element:
    signatures = list(root.iter(_SIGNATURE))
    if not signatures:
        raise BadRequest(9102)
    if len(signatures) > 1:
        raise BadRequest(9103)
    if signatures[0].getparent() is not root:
        raise BadRequest(9101, "Podpis musi być bezpośrednio w elemencie głównym.")
    return signatures[0]


def _check_shape(root: etree._Element) -> None:
    """21401 unless the document without its signature fits the schema."""
    name = etree.QName(root)
    if name.localname != "AuthTokenRequest" or name.namespace not in _NAMESPACES:
        raise BadRequest(21401, f"Nieoczekiwany element główny {root.tag}.")
    bare = copy.deepcopy(root)
    for signature in bare.findall(_SIGNATURE):
        bare.remove(signature)
    challenge, context, subject, *policy = _children(
        bare,
        "Challenge ContextIdentifier SubjectIdentifierType",
        "Challenge ContextIdentifier SubjectIdentifierType AuthorizationPolicy",
    )
    if not _CHALLENGE.fullmatch(_token(challenge)):
        raise BadRequest(21401, "Element Challenge ma nieprawidłową wartość.")
    [identifier] = _children(context, *_CONTEXTS)
    is_nip = etree.QName(identifier).localname == "Nip"
    if is_nip and not identifiers.is_nip(identifier.text or ""):
        raise BadRequest(21401, "Element Nip ma nieprawidłową wartość.")
    if _token(subject) not in SUBJECT_TYPES:
        raise BadRequest(21401, "Element SubjectIdentifierType ma nieprawidłową wartość.")
    for element in policy:
        [allowed] = _children(element, "AllowedIps")
        places = [_ALLOWED_IPS.index(name) for name in _names(allowed) if name in _ALLOWED_IPS]
        if len(places) != len(_names(allowed)) or places != sorted(places):
            raise BadRequest(21401, "Element AllowedIps ma nieprawidłową zawartość.")


def _children(element: etree._Element, *allowed: str) -> list[etree._Element]:
    """Its children; 21401 unless their names are one of the `allowed` rows."""
    if " ".join(_names(element)) not in allowed:
        raise BadRequest(
            21401,
            f"Element {etree.QName(element).localname} ma nieprawidłową zawartość: "
            f"{', '.join(_names(element)) or 'brak elementów'}.",
        )
    return list(element.iterchildren(etree.Element))


def _names(element: etree._Element) -> list[str]:
    """Names of the children; one of a foreign namespace keeps it, and so fits nowhere."""
    own = etree.QName(element).namespace
    return [
        etree.QName(child).localname if etree.QName(child).namespace == own else str(child.tag)
        for child in element.iterchildren(etree.Element)
    ]


def _token(element: etree._Element) -> str:
    """The text as the schema's type token sees it."""
    return " ".join("".join(element.itertext()).split())


def _certificate(signature: etree._Element) -> x509.Certificate:
    element = signature.find(_CERTIFICATE)
    if element is None:
        raise BadRequest(21115, "Podpis nie zawiera certyfikatu.")
    try:
        der = base64.b64decode("".join((element.text or "").split()), validate=True)
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise BadRequest(21115, "Certyfikatu nie można odczytać.") from None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return certificate
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size >= 256:
        return certificate
    raise BadRequest(21115, "Klucz certyfikatu jest za krótki albo innego rodzaju.")


def _verified(root: etree._Element, certificate: x509.Certificate) -> etree._Element:
    """What the signature covers, as it was signed: the whole document; else 9105.

    Whether the certificate is valid now shows in the login's status, not here.
    """
    in_its_time = replace(_EXPECTED, verification_time=certificate.not_valid_before_utc)
    try:
        results = _Verifier().verify(root, x509_cert=certificate, expect_config=in_its_time)
    except (InvalidSignature, InvalidInput, ValueError, etree.LxmlError) as error:
        raise BadRequest(9105, str(error)) from None
    for result in results:
        if result.signed_xml is not None and result.signed_xml.tag == root.tag:
            return result.signed_xml
    raise BadRequest(9105, "Podpis nie obejmuje dokumentu.")


def _has_identifier(certificate: x509.Certificate) -> bool:
    return any(
        pattern.search(str(attribute.value))
        for name, pattern in _SUBJECTS
        for attribute in certificate.subject.get_attributes_for_oid(name)
    )
