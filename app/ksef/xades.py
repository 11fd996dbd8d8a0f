"""The signed document for logging in with a certificate: `AuthTokenRequest`, enveloped XAdES-BES.

Its shape is in KSeF's schema auth v2-1, the signature on KSeF's page on the XAdES signature: RSA or
ECDSA with SHA-256. XML signatures write an ECDSA value as R‖S.
"""

from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from lxml import etree
from signxml.algorithms import DigestAlgorithm, SignatureMethod
from signxml.xades.xades import XAdESDataObjectFormat, XAdESSigner

from app.ksef.certificates import Certificate
from app.ksef.wire import Challenge

NAMESPACE = "http://ksef.mf.gov.pl/auth/token/2.1"


def login_request(certificate: Certificate, *, nip: str, challenge: Challenge) -> bytes:
    """The answer to a challenge, for the company with this NIP, signed at the challenge's time.

    KSeF is told to identify the certificate by its subject if that has an identifier, else by its
    fingerprint.
    """
    root = etree.Element(f"{{{NAMESPACE}}}AuthTokenRequest", nsmap={None: NAMESPACE})
    _add(root, "Challenge", challenge.challenge)
    _add(_add(root, "ContextIdentifier"), "Nip", nip)
    subject = "certificateSubject" if certificate.identifier else "certificateFingerprint"
    _add(root, "SubjectIdentifierType", subject)
    is_rsa = isinstance(certificate.key, rsa.RSAPrivateKey)
    # The library's default, inclusive C14N, is needed: KSeF cannot verify exclusive C14N.
    signed = _Signer(
        challenge.made_at,
        signature_algorithm=SignatureMethod.RSA_SHA256 if is_rsa else SignatureMethod.ECDSA_SHA256,
        digest_algorithm=DigestAlgorithm.SHA256,
        data_object_format=XAdESDataObjectFormat(Description="KSeF", MimeType="text/xml"),
    ).sign(root, key=certificate.key, cert=[certificate.x509], always_add_key_value=False)
    document: bytes = etree.tostring(signed, xml_declaration=True, encoding="utf-8")
    return document


class _Signer(XAdESSigner):
    """Signs as of a given moment: the library would ask this machine's clock for it."""

    def __init__(self, signed_at: datetime, **options: Any) -> None:
        super().__init__(**options)
        self._signed_at = signed_at

    def add_signing_time(
        self, signed_signature_properties: etree._Element, sig_root: Any, signing_settings: Any
    ) -> None:
        super().add_signing_time(signed_signature_properties, sig_root, signing_settings)
        signed_signature_properties[-1].text = self._signed_at.isoformat(timespec="seconds")


def _add(parent: etree._Element, name: str, text: str | None = None) -> etree._Element:
    element = etree.SubElement(parent, f"{{{NAMESPACE}}}{name}")
    element.text = text
    return element
