"""Judges the Ministry's signature on a UPO: XML bytes in, a `Verdict` out.

The profile is the one that the Ministry signs with: an enveloped XAdES-BES signature with two
references, to the whole document and to its own signed properties, canonical XML 1.0, SHA-256.
What is in another profile is not judged, since a signature may cover less than it seems to. The
library does the cryptography; which references it checked is decided and looked at here.

A certificate is judged at the time of signing, never at today's: a UPO stays valid for ever.
"""

import base64
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree
from signxml.algorithms import DigestAlgorithm, SignatureMethod
from signxml.xades.xades import XAdESSignatureConfiguration, XAdESVerifier

from app.upo.verdict import State, Verdict
from app.upo.xml import MAX_BYTES

# A tree costs memory for each element and attribute, however short, so they are counted before it
# is built: a page of 10,000 documents has 180,000 tags, and a "=" at the end of each of its hashes.
MAX_TAGS: Final = 250_000
MAX_EQUALS: Final = 100_000

# UTF-8, which needs no declaration. libxml2 would read others, which cannot be counted like that.
_UTF8: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?<(?:[^?\0]|\?xml\s+version\s*=\s*[\"']1\.0[\"']"
    rb"(?:\s+encoding\s*=\s*[\"']utf-8[\"'])?(?:\s+standalone\s*=\s*[\"'](?:yes|no)[\"'])?\s*\?>)",
    re.IGNORECASE,
)

_DS: Final = "{http://www.w3.org/2000/09/xmldsig#}"
_XADES: Final = "{http://uri.etsi.org/01903/v1.3.2#}"
_XML: Final = "{http://www.w3.org/XML/1998/namespace}"
_PROPERTIES: Final = f"{_XADES}SignedProperties"
_C14N: Final = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
_ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_SHA256: Final = DigestAlgorithm.SHA256
_METHODS: Final = frozenset({SignatureMethod.RSA_SHA256, SignatureMethod.ECDSA_SHA256})


class _Unverifiable(Exception):
    """Another profile than the Ministry's."""


class _Broken(Exception):
    """Something that should fit does not."""


@dataclass(frozen=True, slots=True)
class _Signed:
    """What the document claims to be signed with, and what is signed."""

    certificate: x509.Certificate
    signer: str
    valid_from: datetime
    valid_until: datetime
    sha256: str
    root_tag: str
    children: int  # of the root, without the signature


def verify_signature(content: bytes, signers: Collection[str]) -> Verdict:
    """The verdict on the signature of a UPO; never raises for anything that `content` may hold.

    `signers` are the SHA-256 of the trusted certificates, in capital hex digits. Nothing outside of
    `content` is read, and memory is bounded by `MAX_BYTES`, `MAX_TAGS` and `MAX_EQUALS`.
    """
    try:
        signed = _inspected(content)
        if signed is None:
            return Verdict("unsigned", reason="The document has no signature.")
        signed_at = _verified(content, signed)
    except _Unverifiable as found:
        return Verdict("unverifiable", reason=str(found))
    except _Broken as found:
        return Verdict("broken", reason=str(found))
    state: State = "unknown_signer"
    if signed.sha256 not in signers:
        reason = "The signature fits; its certificate is not one of the trusted signers'."
    elif not signed.valid_from <= signed_at <= signed.valid_until:
        reason = "The signature fits; the signer's certificate was not valid when it signed."
    else:
        state, reason = "valid", "The signature fits, and is that of a trusted signer."
    return Verdict(state, signed.signer, signed_at, signed.sha256, reason)


def certificate_pem(content: bytes, sha256: str) -> bytes | None:
    """The signer's certificate, for other programs; None where the document has not that one."""
    try:
        signed = _inspected(content)
    except (_Unverifiable, _Broken):
        return None
    if signed is None or signed.sha256 != sha256:
        return None
    return signed.certificate.public_bytes(Encoding.PEM)


def _inspected(content: bytes) -> _Signed | None:
    """What is signed, if that is in the known profile; None for a document without a signature."""
    root = _parse(content)
    signatures = list(root.iter(f"{_DS}Signature"))
    if not signatures:
        return None
    signature = signatures[0]
    if len(signatures) > 1:
        raise _Broken("The document has more than one signature.")
    if signature.getparent() is not root:
        raise _Broken("The signature does not stand directly in the document's root.")
    _check_profile(root, signature)
    certificates = signature.findall(f"{_DS}KeyInfo/{_DS}X509Data/{_DS}X509Certificate")
    if len(certificates) != 1:
        raise _Unverifiable("The signature does not name a single certificate.")
    try:
        der = base64.b64decode("".join((certificates[0].text or "").split()), validate=True)
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()
        return _Signed(
            certificate,
            _signer(certificate),
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            certificate.fingerprint(hashes.SHA256()).hex().upper(),
            root.tag,
            sum(1 for _ in root.iterchildren("{*}*")) - 1,
        )
    except UnsupportedAlgorithm:
        raise _Unverifiable("The certificate's key is of an unknown kind.") from None
    except Exception:  # its parts are read when they are asked for, and fail in many ways
        raise _Broken("The signer's certificate cannot be read.") from None


def _parse(content: bytes) -> etree._Element:
    if len(content) > MAX_BYTES:
        raise _Broken(f"The document is larger than {MAX_BYTES // 1024 // 1024} MiB.")
    if content.count(b"<") > MAX_TAGS or content.count(b"=") > MAX_EQUALS:
        raise _Broken("The document has too many elements or attributes.")
    if b"<!DOCTYPE" in content:
        raise _Broken("The document has a DOCTYPE, which is never accepted.")
    if not _UTF8.match(content):
        raise _Unverifiable("The document is not XML 1.0 in UTF-8.")
    try:
        return etree.fromstring(content, _parser())
    except etree.LxmlError:
        raise _Broken("The document is not well-formed XML.") from None


def _parser() -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)


def _check_profile(root: etree._Element, signature: etree._Element) -> None:
    """Raises unless the signature is of the known profile and over the whole document."""
    for sibling in (*root.itersiblings(preceding=True), *root.itersiblings()):
        if sibling.tag is etree.PI:
            raise _Unverifiable("A processing instruction stands outside of the document's root.")
    if (signature.tail or "").strip():
        raise _Unverifiable("Text follows the signature.")
    info = _only(signature, f"{_DS}SignedInfo")
    if _algorithms(info, "CanonicalizationMethod") != [_C14N]:
        raise _Unverifiable("The canonicalization of the signature is not a known one.")
    if _algorithms(info, "SignatureMethod") not in [[method.value] for method in _METHODS]:
        raise _Unverifiable("The signature's algorithm is not a known one.")
    references = info.findall(f"{_DS}Reference")
    if all(reference.get("URI") != "" for reference in references):
        raise _Broken("The signature does not cover the whole document.")
    properties = _only(signature, f"{_DS}Object/{_XADES}QualifyingProperties/{_PROPERTIES}")
    for ancestor in (properties, *properties.iterancestors()):
        if any(str(name).startswith(_XML) for name in ancestor.attrib):
            raise _Unverifiable("An attribute of XML's own stands above what is signed.")
    expected = {"": [_ENVELOPED], f"#{properties.get('Id')}": [_C14N]}
    if sorted(reference.get("URI", "?") for reference in references) != sorted(expected):
        raise _Unverifiable("The signature does not cover the document and its properties alone.")
    for reference in references:
        if _algorithms(reference, f"Transforms/{_DS}Transform") != expected[reference.get("URI")]:
            raise _Unverifiable("A transform of the signature is not a known one.")
        if _algorithms(reference, "DigestMethod") != [_SHA256.value]:
            raise _Unverifiable("A digest algorithm of the signature is not a known one.")


def _only(parent: etree._Element, path: str) -> etree._Element:
    found = parent.findall(path)
    if len(found) != 1:
        raise _Unverifiable("The signature is not a XAdES signature of the known form.")
    return found[0]


def _algorithms(parent: etree._Element, path: str) -> list[str | None]:
    """The algorithms that the elements at the path name; None for one with parameters."""
    found = parent.findall(f"{_DS}{path}")
    return [element.get("Algorithm") if not len(element) else None for element in found]


def _verified(content: bytes, signed: _Signed) -> datetime:
    """The time of signing, once all that is signed fits."""
    config = XAdESSignatureConfiguration(
        location="./",
        expect_references=2,
        signature_methods=_METHODS,
        digest_algorithms=frozenset({_SHA256}),
        # Trust and the time of signing are judged afterwards, so that the library finds it valid.
        verification_time=signed.valid_from,
    )
    try:
        results = _Verifier().verify(
            content, x509_cert=signed.certificate, expect_config=config, parser=_parser()
        )
    except Exception as error:  # whatever the library stumbles over, it does not fit
        raise _Broken(f"The signature does not fit the document: {type(error).__name__}.") from None
    trees = [result.signed_xml for result in results if result.signed_xml is not None]
    covered = {tree.tag: tree for tree in trees}
    document, properties = covered.get(signed.root_tag), covered.get(_PROPERTIES)
    if document is None or properties is None or len(document) != signed.children:
        raise _Broken("The signature does not cover the whole document.")
    path = f"{_XADES}SignedSignatureProperties/{_XADES}SigningTime"
    try:
        signed_at = datetime.fromisoformat(properties.findtext(path, "").strip())
    except ValueError:
        raise _Unverifiable("The time of signing cannot be read.") from None
    if signed_at.tzinfo is None or not 2000 <= signed_at.year < 3000:
        # On the edge of the calendar it could not be converted to another zone.
        raise _Unverifiable("The time of signing has no offset, or is far from today.")
    return signed_at


class _Verifier(XAdESVerifier):
    """Canonicalizes an element as a document of its own.

    Within another document lxml writes xmlns="" into it where the namespace has no prefix, as in
    the Ministry's signature.
    """

    def _c14n(self, nodes: Any, algorithm: Any, inclusive_ns_prefixes: Any = None) -> Any:
        if nodes.getparent() is not None:
            nodes = etree.fromstring(etree.tostring(nodes, with_tail=False), _parser())
        return super()._c14n(nodes, algorithm, inclusive_ns_prefixes)


def _signer(certificate: x509.Certificate) -> str:
    """Name and identifier in the certificate; all of its subject where it has neither."""
    names = (x509.NameOID.COMMON_NAME, x509.NameOID.ORGANIZATION_IDENTIFIER)
    found = [certificate.subject.get_attributes_for_oid(name) for name in names]
    text = ", ".join(str(attributes[0].value) for attributes in found if attributes)
    if not text.strip():
        text = certificate.subject.rfc4514_string() or "?"
    return "".join(char if char.isprintable() else "?" for char in text[:128])
