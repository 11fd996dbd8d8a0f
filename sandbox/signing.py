"""Signs a document as the Ministry signs UPOs: enveloped XAdES-BES, the last child of the root."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from lxml import etree

from sandbox import xml
from sandbox.keys import Signer

_DS: Final = "{http://www.w3.org/2000/09/xmldsig#}"
_SIGNATURE: Final = f"{_DS}Signature"
C14N: Final = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_PROPERTIES: Final = "{http://uri.etsi.org/01903/v1.3.2#}SignedProperties"
_WARSAW: Final = ZoneInfo("Europe/Warsaw")
# The hash, by the names in URIs, and the URIs of the digest and of the signature with it.
_HASHES: Final = {
    "sha256": (
        hashes.SHA256(),
        "http://www.w3.org/2001/04/xmlenc#sha256",
        "http://www.w3.org/2001/04/xmldsig-more#",
    ),
    "sha1": (
        hashes.SHA1(),  # noqa: S303 - made on demand, to be refused
        "http://www.w3.org/2000/09/xmldsig#sha1",
        "http://www.w3.org/2000/09/xmldsig#",
    ),
}
_TEMPLATE: Final = (
    '<Signature Id="Signature" xmlns="http://www.w3.org/2000/09/xmldsig#"><SignedInfo>'
    '<CanonicalizationMethod Algorithm="{c14n}"/>'
    '<SignatureMethod Algorithm="{method}"/>'
    '<Reference URI=""><Transforms>{transforms}</Transforms>'
    '<DigestMethod Algorithm="{digest}"/><DigestValue/></Reference>'
    '<Reference URI="#SignedProperties" Type="http://uri.etsi.org/01903#SignedProperties">'
    '<Transforms><Transform Algorithm="{c14n}"/></Transforms>'
    '<DigestMethod Algorithm="{digest}"/><DigestValue/></Reference></SignedInfo>'
    "<SignatureValue/><KeyInfo><X509Data><X509Certificate>{certificate}</X509Certificate>"
    "</X509Data></KeyInfo><Object>"
    '<xades:QualifyingProperties Target="#Signature"'
    ' xmlns:xades="http://uri.etsi.org/01903/v1.3.2#"'
    ' xmlns="http://www.w3.org/2000/09/xmldsig#">'
    '<xades:SignedProperties Id="SignedProperties"><xades:SignedSignatureProperties>'
    "<xades:SigningTime>{signed_at}</xades:SigningTime><xades:SigningCertificate><xades:Cert>"
    '<xades:CertDigest><DigestMethod Algorithm="{digest}"/>'
    "<DigestValue>{fingerprint}</DigestValue></xades:CertDigest><xades:IssuerSerial>"
    "<X509IssuerName>{issuer}</X509IssuerName><X509SerialNumber>{serial}</X509SerialNumber>"
    "</xades:IssuerSerial></xades:Cert></xades:SigningCertificate>"
    "</xades:SignedSignatureProperties></xades:SignedProperties></xades:QualifyingProperties>"
    "</Object></Signature>"
)


@dataclass(frozen=True)
class Seal:
    """Who signs, when he says that he did, and with which hash (sha256 or sha1)."""

    signer: Signer
    signed_at: datetime
    hash_name: str = "sha256"


def sign(root: etree._Element, seal: Seal, transforms: Sequence[str] = (ENVELOPED,)) -> bytes:
    """The document with a signature at its end; `transforms` are those of the whole document."""
    root.append(template(seal, transforms))
    signature = root[-1]
    algorithm, _, _ = _HASHES[seal.hash_name]
    root.remove(signature)
    whole = _canonical(root)
    root.append(signature)
    digests = list(signature.iterfind(f"{_DS}SignedInfo/{_DS}Reference/{_DS}DigestValue"))
    for digest, content in zip(
        digests, (whole, _canonical(next(signature.iter(_PROPERTIES)))), strict=True
    ):
        hasher = hashes.Hash(algorithm)
        hasher.update(content)
        digest.text = base64.b64encode(hasher.finalize()).decode()
    info, value = signature[0], signature[1]
    value.text = base64.b64encode(_signed(seal.signer, _canonical(info), algorithm)).decode()
    document: bytes = etree.tostring(root, xml_declaration=True, encoding="utf-8")
    return document


def unsigned_root(content: bytes) -> etree._Element:
    """The document without its signatures."""
    root = xml.parse(content)
    for signature in root.findall(_SIGNATURE):
        root.remove(signature)
    return root


def template(seal: Seal, transforms: Sequence[str] = (ENVELOPED,)) -> etree._Element:
    """The signature without its digests and its value."""
    algorithm, digest, methods = _HASHES[seal.hash_name]
    kind = "rsa" if isinstance(seal.signer.private_key, rsa.RSAPrivateKey) else "ecdsa"
    certificate = seal.signer.certificate
    der = certificate.public_bytes(serialization.Encoding.DER)
    text = _TEMPLATE.format(
        c14n=C14N,
        method=f"{methods}{kind}-{seal.hash_name}",
        digest=digest,
        transforms="".join(f'<Transform Algorithm="{uri}"/>' for uri in transforms),
        certificate=base64.b64encode(der).decode(),
        signed_at=seal.signed_at.astimezone(_WARSAW).isoformat(timespec="milliseconds"),
        fingerprint=base64.b64encode(certificate.fingerprint(algorithm)).decode(),
        issuer=certificate.issuer.rfc4514_string(),
        serial=certificate.serial_number,
    )
    return etree.fromstring(text)


def _canonical(element: etree._Element) -> bytes:
    # As a document of its own: within another one lxml writes namespaces that are not there.
    element = etree.fromstring(etree.tostring(element, with_tail=False))
    canonical: bytes = etree.tostring(element, method="c14n", with_comments=False)
    return canonical


def _signed(signer: Signer, content: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
    key = signer.private_key
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(content, padding.PKCS1v15(), algorithm)
    # XML signatures write an elliptic one as R and S, each as long as the key.
    length = (key.key_size + 7) // 8
    numbers = decode_dss_signature(key.sign(content, ec.ECDSA(algorithm)))
    return b"".join(number.to_bytes(length, "big") for number in numbers)
