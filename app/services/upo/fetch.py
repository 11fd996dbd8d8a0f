"""The UPO, KSeF's official receipt: fetched once, checked, archived, drawn as a PDF on demand."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from app import errors, telemetry
from app.account import Account
from app.ksef.http import Document
from app.ksef.wire import Session
from app.services import outages
from app.services.operators.progress import Progress, Summary
from app.services.replicas import leases, not_found
from app.services.sessions import search, store
from app.services.upo import archive, signature
from app.services.upo.archive import ArchivedUpo, UpoName
from app.services.upo.checks import PDF, check
from app.upo.pdf import render_upo
from app.upo.verdict import Verdict
from app.upo.xml import parse_upo

DocType = Literal["xml", "pdf"]


_MOST_HASHES = 10_000
_hashes: dict[tuple[str, str, Verdict], str] = {}  # of PDFs, so that they need not be drawn again


@dataclass(frozen=True)
class UpoFile:
    """A UPO as the caller gets it, from the document as KSeF sent it, `source`."""

    doc_type: DocType
    source: bytes
    signature: Verdict
    environment: str

    @cached_property
    def content(self) -> bytes:
        """The file; a PDF is drawn here, unless KSeF sent one. May raise KsefInvalidResponse."""
        if self.doc_type == "xml" or self.source.startswith(PDF):
            return self.source
        pdf = drawn(self.environment, self.source, self._sha256_of_source, self.signature)
        if len(_hashes) >= _MOST_HASHES:
            _hashes.clear()
        _hashes[self._key] = hashlib.sha256(pdf).hexdigest()
        return pdf

    @cached_property
    def sha256(self) -> str:
        """That of `content`, in hexadecimal. Of a PDF that was drawn before it is known."""
        if self.doc_type == "xml":
            return self._sha256_of_source
        return _hashes.get(self._key) or hashlib.sha256(self.content).hexdigest()

    @cached_property
    def _sha256_of_source(self) -> str:
        return hashlib.sha256(self.source).hexdigest()

    @property
    def _key(self) -> tuple[str, str, Verdict]:
        return f"{self.doc_type} {self._sha256_of_source}", self.environment, self.signature


def fetch_upo(
    account: Account, reference_number: str, ksef_number: str, doc_type: DocType
) -> UpoFile:
    """The UPO of one invoice of a session: KSeF's signed XML, unchanged, or a PDF of it.

    Raises OutageSimulation, NoActiveKsefSession, SessionNotFound, UpoNotAvailable,
    InvoiceNotFound, UpoIntegrity, KsefInvalidResponse, and what a call to KSeF raises.
    """
    telemetry.answered_from("store")
    name = UpoName(reference_number, ksef_number=ksef_number)
    document = archive.find(account, name, doc_type)
    if document is None:
        not_found.repeat(account, name.question)
        document = _fetch_for_caller(account, name)
        archive.note_download(account, name, doc_type)
    return _as_file(account, name, document, doc_type)


def fetch_session_upo(
    account: Account, reference_number: str, doc_type: DocType
) -> list[tuple[str, UpoFile]]:
    """The session's collective UPO, as (reference number, file) of each page, in order.

    Each page is an XML signed by itself, so they are not joined. Raises what `fetch_upo` raises.
    """
    outages.refuse_if_simulated(account)
    telemetry.answered_from("store")
    documents = archive.pages(account, reference_number) or _fetch_pages(account, reference_number)
    files = [
        (
            page,
            _as_file(
                account, UpoName(reference_number, page_reference_number=page), document, doc_type
            ),
        )
        for page, document in documents
    ]
    archive.note_download(account, UpoName(reference_number), doc_type)
    return files


def _fetch_pages(account: Account, reference_number: str) -> list[tuple[str, ArchivedUpo]]:
    """The pages that KSeF lists, in order. Raises UpoIntegrity if they are not the whole."""
    documents = []
    for page in _page_references(account, reference_number):
        name = UpoName(reference_number, page_reference_number=page)
        documents.append((page, archive.get(account, name) or _fetch_for_caller(account, name)))
    if any(document.content.startswith(PDF) for _, document in documents):
        return documents  # of a PDF of KSeF's own nobody knows which page it is
    whole = archive.in_order(documents)
    if not whole:
        raise errors.UpoIntegrity("The pages that KSeF lists are not the whole collective UPO.")
    return whole


def archive_upos(account: Account, progress: Progress) -> Summary:
    """Fetch the UPO of every linked invoice that has none in the archive."""
    outages.refuse_if_simulated(account)
    total = sum(1 for _ in archive.missing(account))
    summary = Summary()
    for name in archive.missing(account):
        with summary.one(name.ksef_number):
            not_found.repeat(account, name.question)
            _fetch(account, name)
        progress(summary.seen, total)
    return summary


def archive_session(account: Account, reference_number: str, *, most: int) -> bool:
    """Archive UPOs of a session whose final answer is kept, at most so many; whether that is all.

    Each invoice's own by its download link, which costs no quota. Where that will not do, the pages
    of the collective UPO hold the rest; where there are none, each comes from the API.
    """
    missing = archive.missing_of(account, reference_number, most + 1)
    for name in missing[:most]:
        if _by_link(account, name):
            continue
        kept = store.load(account, reference_number)
        pages = [page.reference_number for page in kept.session.upo_pages] if kept else []
        for page in pages:
            name = UpoName(reference_number, page_reference_number=page)
            if archive.get(account, name) is None:
                _fetch(account, name)
        if pages:
            return True
        _fetch(account, name)
    left = archive.missing_of(account, reference_number, 1) if len(missing) > most else []
    if left and left == missing[:1]:
        raise errors.KsefInvalidResponse("KSeF sends no UPO that can be archived.")
    return not left


def _by_link(account: Account, name: UpoName) -> bool:
    """Archive a UPO from its download link; false where there is none, or no good one."""
    found = _from_link(account, name, archive.invoice_hashes(account, name))
    if found is None or found[0].startswith(PDF):
        return False
    archive.put(account, name, *found)
    return True


def _fetch_for_caller(account: Account, name: UpoName) -> ArchivedUpo:
    """The document from KSeF, for an HTTP caller: it takes one of the threads that may ask KSeF."""
    with account.places.one(account.company_nip):
        return _fetch(account, name)


def _fetch(account: Account, name: UpoName) -> ArchivedUpo:
    """The document from KSeF, checked, and archived unless KSeF sent a PDF instead of XML.

    However many ask for it, it is fetched once.
    """
    account.ksef.require_session()
    for _ in leases.attempts(account, "question", account.timing.single_flight_wait):
        with leases.try_lease(account, name.question) as mine:
            if document := archive.get(account, name):
                return document
            if mine:
                return _fetched(account, name)
        not_found.repeat(account, name.question)
    raise AssertionError("unreachable: the attempts end by raising")


def _fetched(account: Account, name: UpoName) -> ArchivedUpo:
    with not_found.remembered(account, name.question):
        document, verdict = _from_ksef(account, name)
    telemetry.answered_from("fresh")
    if not document.startswith(PDF):
        archive.put(account, name, document, verdict)
    return ArchivedUpo(document, verdict)


def _from_ksef(account: Account, name: UpoName) -> tuple[bytes, Verdict]:
    """The first document that passes the checks, and the verdict on its signature.

    It comes by the download link, which costs no quota, else from the API. Raises what the API's
    document fails in.
    """
    listed = archive.invoice_hashes(account, name)  # first: what KSeF answers is not to be lost
    if found := _from_link(account, name, listed):
        return found
    document = _by_api(account, name)
    try:
        return document.content, check(document, account, name, listed)
    except (errors.UpoIntegrity, errors.KsefInvalidResponse) as error:
        telemetry.warning("a UPO did not pass the checks", reason=error.detail)
        raise


def _from_link(
    account: Account, name: UpoName, listed: Mapping[str, str]
) -> tuple[bytes, Verdict] | None:
    """The document by its download link; None without a good link, or if it fails the checks."""
    url = store.upo_link(account, name.reference_number, name.key)
    linked = account.ksef.download(url) if url else None
    if linked:
        try:
            return linked.content, check(linked, account, name, listed)
        except (errors.UpoIntegrity, errors.KsefInvalidResponse) as error:
            telemetry.warning("a UPO did not pass the checks", reason=error.detail)
    return None


def _by_api(account: Account, name: UpoName) -> Document:
    with _not_lost(account, name.reference_number):
        if not name.ksef_number:
            return account.ksef.upo_page(name.reference_number, name.page_reference_number)
        try:
            return account.ksef.upo(name.reference_number, name.ksef_number)
        except errors.UpoNotAvailable as error:
            _raise_if_not_in_session(account, name, error)
            raise


@contextmanager
def _not_lost(account: Account, reference_number: str) -> Iterator[None]:
    """SessionLost in place of a SessionNotFound, for a session that KSeF has shown before."""
    try:
        yield
    except errors.SessionNotFound as error:
        if store.load(account, reference_number) is None:
            raise
        raise errors.SessionLost.of(error, account.timing.retry_after) from error


def _raise_if_not_in_session(
    account: Account, name: UpoName, error: errors.UpoNotAvailable
) -> None:
    """InvoiceNotFound if the kept answer is final and holds no such accepted invoice."""
    kept = store.load(account, name.reference_number)
    if kept is None or not kept.final:
        return
    if all(i.ksef_number != name.ksef_number or not i.is_accepted for i in kept.invoices):
        detail = "The session is finished and holds no accepted invoice with this KSeF number."
        if session := search.session_of(account, name.ksef_number):
            detail += f" Its session is {session}."
        raise errors.InvoiceNotFound(detail, ksef=error.ksef) from error


def _page_references(account: Account, reference_number: str) -> list[str]:
    """The reference numbers of the pages; KSeF is asked if the kept answer has none yet."""
    kept = store.load(account, reference_number)
    if kept and (kept.session.upo_pages or _never_gets_upo(kept.session)):
        return _references_in(kept.session)
    question = f"pages {reference_number}"
    not_found.repeat(account, question)
    with (
        account.places.one(account.company_nip),
        not_found.remembered(account, question),
        _not_lost(account, reference_number),
    ):
        return _references_in(account.ksef.session_status(reference_number))


def _references_in(session: Session) -> list[str]:
    if session.upo_pages:
        return [page.reference_number for page in session.upo_pages]
    at = f"it is at {session.status.code}, {session.status.description}."
    if _never_gets_upo(session):
        raise errors.NoUpoEver(f"The session has no collective UPO: {at}")
    raise errors.UpoNotAvailable(f"The session has no collective UPO yet: {at}")


def _never_gets_upo(session: Session) -> bool:
    """Whether the session is finished and none of its invoices was accepted."""
    return session.status.is_final and (
        session.status.code != 200 or session.successful_invoice_count == 0
    )


def _as_file(account: Account, name: UpoName, archived: ArchivedUpo, doc_type: DocType) -> UpoFile:
    """The document in the format asked for: KSeF's XML unchanged, or a PDF drawn from it.

    Raises UpoIntegrity if its signature is broken, and KsefInvalidResponse if XML is asked for and
    KSeF sent a PDF.
    """
    document = archived.content
    verdict = archived.signature or signature.of_archived(account, name, document)
    signature.refuse_if_broken(verdict)
    if document.startswith(PDF) and doc_type != "pdf":
        raise errors.KsefInvalidResponse("KSeF sent a PDF instead of the UPO's XML.")
    return UpoFile(doc_type, document, verdict, account.environment)


def drawn(environment: str, xml: bytes, sha256: str, verdict: Verdict) -> bytes:
    """The PDF of an archived UPO, with what was found out about its signature."""
    return render_upo(parse_upo(xml), xml_sha256=sha256, signature=verdict, environment=environment)


def render(xml: bytes, *, language: str) -> bytes:
    """The PDF of a UPO's XML, in Polish (pl) or English (en). Raises KsefInvalidResponse.

    Its signature is judged by the signers that are known without settings, of all environments.
    One that is known, but not for production, marks it as a test, whatever issuer it names.
    """
    verdict = signature.verify_file(xml, ())
    environments = signature.environments_of(verdict)
    return render_upo(
        parse_upo(xml),
        xml_sha256=hashlib.sha256(xml).hexdigest(),
        signature=verdict,
        language=language,
        environment="prod" if "prod" in environments else next(iter(environments), None),
    )
