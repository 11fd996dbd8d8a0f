"""Reads a login document with an enveloped XAdES signature, as strictly as KSeF; no SHA-1."""

import base64
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from lxml import etree
from signxml.exceptions import InvalidInput, InvalidSignature
from signxml.xades.xades import XAdESSignatureConfiguration, XAdESVerifier

from sandbox import xml
from sandbox.problems import BadRequest

_SIGNATURE: Final = "{http://www.w3.org/2000/09/xmldsig#}Signature"
_CERTIFICATE: Final = ".//{http://www.w3.org/2000/09/xmldsig#}X509Certificate"
_XPATH: Final = "http://www.w3.org/TR/1999/REC-xpath-19991116"
_WITHOUT_SIGNATURES: Final = "not(ancestor-or-self::ds:Signature)"
_XSD: Final = Path(__file__).with_name("auth_token_request.xsd").read_text("utf-8")
_SCHEMAS: Final = {
    version: etree.XMLSchema(etree.fromstring(_XSD.replace("VERSION", version).encode()))
    for version in ("2.0", "2.1")
}


class _Verifier(XAdESVerifier):
    """Knows one transform more: KSeF allows it, and signing programs use it."""

    def _apply_transforms(self, payload: Any, **nodes: Any) -> Any:
        transforms = nodes["transforms_node"]
        for transform in () if transforms is None else transforms:
            text = transform.xpath("translate(normalize-space(), ' ', '')")
            if transform.get("Algorithm") == _XPATH and text == _WITHOUT_SIGNATURES:
                etree.strip_elements(payload, _SIGNATURE, with_tail=False)
        return super()._apply_transforms(payload, **nodes)


def read(content: bytes) -> tuple[etree._Element, x509.Certificate]:
    """What was signed, a document that fits the schema, and with which certificate.

    BadRequest with KSeF's code for what is wrong with it. Whether the certificate is valid now,
    and may log in, is not looked at.
    """
    root = _parse(content)
    certificate = _certificate(root)
    config = XAdESSignatureConfiguration(
        expect_references=True,  # any number; the whole document must be among them
        verification_time=certificate.not_valid_before_utc,
    )
    try:
        results = _Verifier().verify(root, x509_cert=certificate, expect_config=config)
    except (InvalidSignature, InvalidInput, ValueError, etree.LxmlError) as error:
        raise BadRequest(9105, str(error)) from None
    covered = [result.signed_xml for result in results if result.signed_xml is not None]
    signed = next((element for element in covered if element.tag == root.tag), None)
    if signed is None:
        raise BadRequest(9105, "Podpis nie obejmuje dokumentu.")
    schema = _SCHEMAS["2.0" if "/2.0}" in root.tag else "2.1"]
    if not schema.validate(signed):
        raise BadRequest(21401, *(entry.message for entry in schema.error_log))
    return signed, certificate


def _parse(content: bytes) -> etree._Element:
    if not content.strip():
        raise BadRequest(21001)
    try:
        content.decode()
        root = xml.parse(content)
    except UnicodeDecodeError:
        raise BadRequest(21217) from None
    except ValueError as error:
        raise BadRequest(9101, str(error)) from None
    signatures = list(root.iter(_SIGNATURE))
    if len(signatures) != 1:
        raise BadRequest(9103 if signatures else 9102)
    if signatures[0].getparent() is not root:
        raise BadRequest(9101, "Podpis musi być bezpośrednio w elemencie głównym.")
    return root


def _certificate(root: etree._Element) -> x509.Certificate:
    try:
        text = "".join(root.findtext(_CERTIFICATE, "").split())
        certificate = x509.load_der_x509_certificate(base64.b64decode(text, validate=True))
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise BadRequest(21115, "Podpis nie zawiera czytelnego certyfikatu.") from None
    if not (
        (isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048)
        or (isinstance(key, ec.EllipticCurvePublicKey) and key.key_size >= 256)
    ):
        raise BadRequest(21115, "Klucz certyfikatu jest za krótki albo innego rodzaju.")
    return certificate
