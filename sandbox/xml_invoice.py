"""What KSeF reads from an encrypted invoice."""

import re
from datetime import date
from typing import NamedTuple

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from lxml import etree

from sandbox import identifiers, xml


def decrypt(content: bytes, key: bytes, vector: bytes) -> bytes:
    """AES-256-CBC with PKCS#7 padding; ValueError when it does not fit."""
    decryptor = Cipher(algorithms.AES256(key), modes.CBC(vector)).decryptor()
    padded = decryptor.update(content) + decryptor.finalize()
    unpadder = padding.PKCS7(128).unpadder()
    return unpadder.update(padded) + unpadder.finalize()


class Content(NamedTuple):
    """What is read from an FA document; `nips` are all that it names.

    By the first three KSeF tells whether it has an invoice already.
    """

    seller_nip: str
    invoice_type: str
    invoice_number: str
    issue_date: date
    nips: set[str]


def read(content: bytes) -> Content:
    """What an FA document says of itself.

    ValueError, with a text for KSeF's details, where something is missing or wrong.
    """
    root = xml.parse(content)
    number = _text(root, "//*[local-name()='P_2']")
    issue_date = _text(root, "//*[local-name()='P_1']")
    seller = _text(root, "//*[local-name()='Podmiot1']//*[local-name()='NIP']")
    try:
        issued = date.fromisoformat(issue_date)
    except ValueError:
        raise ValueError("Nieprawidłowa data wystawienia (P_1).") from None
    if len(number) > 256:
        raise ValueError("Numer faktury (P_2) jest za długi.")
    if not re.fullmatch(identifiers.NIP, seller):
        raise ValueError("Nieprawidłowy NIP sprzedawcy (Podmiot1).")
    nips = {str(nip).strip() for nip in root.xpath("//*[local-name()='NIP']/text()")}
    kind = str(root.xpath("normalize-space(//*[local-name()='RodzajFaktury'])")) or "VAT"
    return Content(seller, kind, number, issued, nips)


def _text(root: etree._Element, path: str) -> str:
    found = root.xpath(f"string({path})")
    text = " ".join(str(found).split())
    if not text:
        raise ValueError(f"Brak wymaganego elementu {path.rsplit(chr(39), 2)[1]}.")
    return text
