"""The UPO, the official receipt of an invoice: fetched, checked, and drawn as a PDF on demand."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from app import errors
from app.ksef.gateway import Document
from app.services import outages
from app.services.auth import ActiveSession
from app.services.parts import Parts, Place
from app.upo.pdf import render_upo
from app.upo.xml import Upo, parse_upo

DocType = Literal["xml", "pdf"]


@dataclass(frozen=True, slots=True)
class UpoFile:
    """A UPO as it is handed out; `sha256` (hexadecimal) is that of `content`."""

    doc_type: DocType
    content: bytes
    sha256: str


def fetch_upo(
    parts: Parts, place: Place, reference_number: str, ksef_number: str, doc_type: DocType
) -> UpoFile:
    """The UPO of one invoice of a session: KSeF's signed XML, unchanged, or a PDF of it.

    Raises OutageSimulation, NoActiveKsefSession, SessionNotFound, UpoNotAvailable, UpoIntegrity,
    KsefInvalidResponse, and what the gateway raises.
    """
    outages.refuse_if_simulated(parts, place)
    document = _fetch(parts, place, reference_number, ksef_number)
    _check_hash(document)
    if document.content.startswith(b"%PDF-"):
        return _passed_on(document, doc_type)
    upo = parse_upo(document.content)
    _check_belongs(upo, place.company_nip, reference_number, ksef_number)
    xml_sha256 = hashlib.sha256(document.content).hexdigest()
    if doc_type == "xml":
        return UpoFile("xml", document.content, xml_sha256)
    return _file("pdf", render_upo(upo, xml_sha256=xml_sha256))


def _fetch(parts: Parts, place: Place, reference_number: str, ksef_number: str) -> Document:
    bearer = ActiveSession(parts, place)
    gateway = parts.ksef[place.environment]
    try:
        return bearer.call(lambda access: gateway.upo(access, reference_number, ksef_number))
    except errors.UpoNotAvailable as error:
        error.retry_after = parts.timing.retry_after
        raise


def _check_hash(document: Document) -> None:
    if document.sha256 is None:
        return  # it proves the transport only, not the origin; the rest is checked all the same
    if document.sha256 != hashlib.sha256(document.content).digest():
        raise errors.UpoIntegrity("The UPO is not the one that KSeF gave the hash of.")


def _passed_on(document: Document, doc_type: DocType) -> UpoFile:
    """A PDF of KSeF's own, which it does not send today: only where asked for, and proven whole."""
    if doc_type != "pdf" or document.sha256 is None:
        raise errors.KsefInvalidResponse("KSeF sent a PDF in place of the UPO's XML.")
    return _file("pdf", document.content)


def _check_belongs(upo: Upo, company_nip: str, reference_number: str, ksef_number: str) -> None:
    if upo.session_reference_number != reference_number:
        raise errors.UpoIntegrity("The UPO is of another session than the one asked for.")
    if upo.context_nip != company_nip:
        raise errors.UpoIntegrity("The UPO is of another company than the one that asks.")
    if all(document.ksef_number != ksef_number for document in upo.documents):
        raise errors.UpoIntegrity("The UPO does not hold the KSeF number asked for.")


def _file(doc_type: DocType, content: bytes) -> UpoFile:
    return UpoFile(doc_type, content, hashlib.sha256(content).hexdigest())
