"""What KSeF reads from an encrypted invoice."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from lxml import etree

from sandbox import identifiers

_PARSER: Final = {"resolve_entities": False, "no_network": True, "load_dtd": False}


@dataclass(frozen=True)
class InvoiceFacts:
    """Seller's NIP, number (P_2) and issue date (P_1), and all NIPs that the invoice names."""

    seller_nip: str
    number: str
    issue_date: str
    nips: frozenset[str]


class UnreadableInvoiceError(Exception):
    """The file is not an invoice; the message is what KSeF puts into the details."""


def decrypt(content: bytes, key: bytes, vector: bytes) -> bytes:
    """AES-256-CBC with PKCS#7 padding; ValueError when it does not fit."""
    decryptor = Cipher(algorithms.AES256(key), modes.CBC(vector)).decryptor()
    padded = decryptor.update(content) + decryptor.finalize()
    unpadder = padding.PKCS7(128).unpadder()
    return unpadder.update(padded) + unpadder.finalize()


def read(content: bytes) -> InvoiceFacts:
    """The facts of an FA document, found by local name. UnreadableInvoiceError otherwise."""
    try:
        root = etree.fromstring(content, etree.XMLParser(**_PARSER))
    except etree.XMLSyntaxError as error:
        raise UnreadableInvoiceError(f"Dokument nie jest poprawnym plikiem XML: {error}") from None
    if root.getroottree().docinfo.doctype:
        raise UnreadableInvoiceError("Dokument zawiera niedozwoloną deklarację DOCTYPE.")
    number = _text(root, "//*[local-name()='P_2']")
    issue_date = _text(root, "//*[local-name()='P_1']")
    seller = _text(root, "//*[local-name()='Podmiot1']//*[local-name()='NIP']")
    try:
        date.fromisoformat(issue_date)
    except ValueError:
        raise UnreadableInvoiceError("Nieprawidłowa data wystawienia (P_1).") from None
    if len(number) > 256:
        raise UnreadableInvoiceError("Numer faktury (P_2) jest za długi.")
    if not identifiers.is_nip(seller):
        raise UnreadableInvoiceError("Nieprawidłowy NIP sprzedawcy (Podmiot1).")
    nips = frozenset(str(nip).strip() for nip in root.xpath("//*[local-name()='NIP']/text()"))
    return InvoiceFacts(seller, number, issue_date, nips)


def _text(root: etree._Element, path: str) -> str:
    found = root.xpath(f"string({path})")
    text = " ".join(str(found).split())
    if not text:
        raise UnreadableInvoiceError(f"Brak wymaganego elementu {path.rsplit(chr(39), 2)[1]}.")
    return text
