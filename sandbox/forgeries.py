"""UPOs whose signature is not as it should be, made from a good one: a function for each kind."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

from lxml import etree

from sandbox import xml
from sandbox.keys import Signers
from sandbox.signing import C14N, ENVELOPED, Seal, sign, unsigned_root

_VALUE: Final = re.compile(rb"(?<=<SignatureValue>)(.)", re.DOTALL)
_NUMBER: Final = re.compile(rb"(?<=<NumerFaktury>)([^<]*)")


def _tampered_value(content: bytes, _seal: Seal, _signers: Signers) -> bytes:
    return _NUMBER.sub(rb"\1/A", content, count=1)


def _tampered_signature(content: bytes, _seal: Seal, _signers: Signers) -> bytes:
    return _VALUE.sub(lambda found: b"B" if found[1] == b"A" else b"A", content, count=1)


def _wrapped(content: bytes, _seal: Seal, _signers: Signers) -> bytes:
    """The signed document whole, hidden in one that says something else."""
    outer, signed = unsigned_root(content), xml.parse(content)
    for number in outer.iter("{*}NumerFaktury"):
        number.text = f"{number.text}/A"
    etree.SubElement(outer, f"{outer.tag[:-13]}Inne").append(signed)
    return _written(outer)


def _two_signatures(content: bytes, _seal: Seal, _signers: Signers) -> bytes:
    root = xml.parse(content)
    root.append(copy.deepcopy(root[-1]))
    return _written(root)


def _extra_transform(content: bytes, seal: Seal, _signers: Signers) -> bytes:
    return sign(unsigned_root(content), seal, (ENVELOPED, C14N))


def _pretty_printed(content: bytes, _seal: Seal, _signers: Signers) -> bytes:
    root = xml.parse(content)
    etree.indent(root)
    return _written(root)


def _other_signer(content: bytes, seal: Seal, signers: Signers) -> bytes:
    return sign(unsigned_root(content), replace(seal, signer=signers.stranger()))


def _expired_signer(content: bytes, seal: Seal, _signers: Signers) -> bytes:
    after = seal.signer.certificate.not_valid_after_utc + timedelta(days=1)
    return sign(unsigned_root(content), replace(seal, signed_at=after))


def _unsigned(content: bytes, _seal: Seal, _signers: Signers) -> bytes:
    return _written(unsigned_root(content))


def _sha1(content: bytes, seal: Seal, _signers: Signers) -> bytes:
    return sign(unsigned_root(content), replace(seal, hash_name="sha1"))


def _ecdsa(content: bytes, seal: Seal, signers: Signers) -> bytes:
    return sign(unsigned_root(content), replace(seal, signer=signers.elliptic))


def _written(root: etree._Element) -> bytes:
    document: bytes = etree.tostring(root, xml_declaration=True, encoding="utf-8")
    return document


FORGERIES: Final[dict[str, Callable[[bytes, Seal, Signers], bytes]]] = {
    "tampered-value": _tampered_value,
    "tampered-signature": _tampered_signature,
    "wrapped": _wrapped,
    "two-signatures": _two_signatures,
    "extra-transform": _extra_transform,
    "pretty-printed": _pretty_printed,
    "other-signer": _other_signer,
    "expired-signer": _expired_signer,
    "unsigned": _unsigned,
    "sha1": _sha1,
    "ecdsa": _ecdsa,
}
