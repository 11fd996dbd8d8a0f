"""The UPO, KSeF's official receipt: fetched once, checked, archived, drawn as a PDF on demand."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from app import errors, telemetry
from app.db.queries import upo as queries
from app.ksef.gateway import SESSION, UPO, UPO_PAGE, Document
from app.ksef.wire import SessionStatus
from app.services import audit, outages, refusals, single_flight, snapshots
from app.services.active_session import ActiveSession
from app.services.parts import Parts, Place
from app.upo.pdf import render_upo
from app.upo.xml import Upo, parse_upo

DocType = Literal["xml", "pdf"]
_PDF = b"%PDF-"


@dataclass(frozen=True, slots=True)
class UpoName:
    """Which UPO of the session `reference_number`: of one invoice, or a page of the collective one.

    Exactly one of `ksef_number` and `page_reference_number` is set.
    """

    reference_number: str
    ksef_number: str = ""
    page_reference_number: str = ""

    @property
    def key(self) -> str:
        return self.ksef_number or self.page_reference_number


@dataclass(frozen=True, slots=True)
class UpoFile:
    """A UPO as the caller gets it; `sha256` (hexadecimal) is that of `content`."""

    doc_type: DocType
    content: bytes
    sha256: str


def fetch_upo(
    parts: Parts, place: Place, reference_number: str, ksef_number: str, doc_type: DocType
) -> UpoFile:
    """The UPO of one invoice of a session: KSeF's signed XML, unchanged, or a PDF of it.

    Raises OutageSimulation, NoActiveKsefSession, SessionNotFound, UpoNotAvailable,
    InvoiceNotFound, UpoIntegrity, KsefInvalidResponse, and what the gateway raises.
    """
    name = UpoName(reference_number, ksef_number=ksef_number)
    telemetry.answered_from("store")
    outages.refuse_if_simulated(parts, place)
    document = _archived_and_audited(parts, place, name, doc_type)
    if document is None:
        document = _fetch_for_caller(parts, place, name)
        _audit(parts, place, name, doc_type)
    return _as_file(document, doc_type)


def _archived_and_audited(
    parts: Parts, place: Place, name: UpoName, doc_type: DocType
) -> bytes | None:
    """The archived document, its download audited in the same statement; None if not archived.

    If the database cannot be written to, the document is returned without an audit.
    """
    try:
        row = parts.db.run(
            queries.hand_out_upo,
            **_where(place, name),
            **audit.actor.get().columns,
            what=audit.What.UPO_DOWNLOADED,
            detail=_audit_detail(name, doc_type),
        )
    except errors.NotWritable:
        _warn_not_audited(place)
        return archived(parts, place, name)
    return bytes(row.content) if row else None


def _audit(parts: Parts, place: Place, name: UpoName, doc_type: DocType) -> None:
    """Record who got a document. If that fails, the caller still gets it."""
    try:
        with parts.db.transaction() as connection:
            audit.note(
                connection,
                audit.What.UPO_DOWNLOADED,
                **place.columns,
                detail=_audit_detail(name, doc_type),
            )
    except errors.Unavailable:
        _warn_not_audited(place)


def _audit_detail(name: UpoName, doc_type: DocType) -> str:
    return " ".join(filter(None, (name.reference_number, name.key, doc_type)))


def _warn_not_audited(place: Place) -> None:
    telemetry.warning("the download of a UPO could not be audited", **place.log_fields)


def fetch_session_upo(
    parts: Parts, place: Place, reference_number: str, doc_type: DocType
) -> list[tuple[str, UpoFile]]:
    """The session's collective UPO, as (reference number, file) of each page, in order.

    Each page is an XML signed by itself, so they are not joined. Raises what `fetch_upo` raises.
    """
    outages.refuse_if_simulated(parts, place)
    telemetry.answered_from("store")
    documents = _archived_pages(parts, place, reference_number)
    for page in [] if documents else _page_references(parts, place, reference_number):
        name = UpoName(reference_number, page_reference_number=page)
        document = archived(parts, place, name) or _fetch_for_caller(parts, place, name)
        documents.append((page, document))
    files = [(page, _as_file(document, doc_type)) for page, document in documents]
    _audit(parts, place, UpoName(reference_number), doc_type)
    return files


def _archived_pages(parts: Parts, place: Place, reference_number: str) -> list[tuple[str, bytes]]:
    """(reference number, XML) of each page, in order; empty unless all pages are archived.

    Each page says how many there are.
    """
    found, total = {}, 0
    for row in parts.db.rows(
        queries.get_pages, **place.columns, session_reference_number=reference_number
    ):
        document = bytes(row.content)
        page = parse_upo(document).page
        number, total = (page.page, page.pages) if page else (1, 1)
        found[number] = (row.page_reference_number, document)
    return [found[number] for number in sorted(found)] if len(found) == total else []


def archived(parts: Parts, place: Place, name: UpoName) -> bytes | None:
    """The document from the archive; None if it is not there."""
    row = parts.db.run(queries.get_upo, **_where(place, name))
    return bytes(row.content) if row else None


def _fetch_for_caller(parts: Parts, place: Place, name: UpoName) -> bytes:
    """The document from KSeF, for an HTTP caller: it takes one of the threads that may ask KSeF."""
    with parts.places.one(place.company_nip):
        return fetch(parts, place, name, ActiveSession(parts, place))


def fetch(parts: Parts, place: Place, name: UpoName, bearer: ActiveSession) -> bytes:
    """The document from KSeF, checked, and archived unless KSeF sent a PDF instead of XML.

    However many ask for it, it is fetched once. Raises what `fetch_upo` raises, but for the
    simulation.
    """
    question = f"upo {name.reference_number} {name.key}"
    refusals.repeat(parts, place, question)

    def look_beside() -> bytes | None:
        refusals.repeat(parts, place, question)
        return archived(parts, place, name)

    def ask() -> bytes:
        with refusals.remembered(parts, place, question):
            document = _from_ksef(parts, place, name, bearer)
        telemetry.answered_from("fresh")
        if not document.startswith(_PDF):
            _archive(parts, place, name, document)
        return document

    return single_flight.fetch_once(
        parts,
        place,
        question,
        look=lambda: archived(parts, place, name),
        look_beside=look_beside,
        fetch=ask,
    )


def _from_ksef(parts: Parts, place: Place, name: UpoName, bearer: ActiveSession) -> bytes:
    """The first document that passes the checks: by the download link, else from the API.

    The link comes first because it costs no quota. Raises the last check's error if none passes.
    """
    for download in _sources(parts, place, name, bearer):
        document = download()
        if document is None:
            continue
        try:
            _check(document, place, name)
        except (errors.UpoIntegrity, errors.KsefInvalidResponse) as error:
            telemetry.warning("a UPO did not pass the checks", reason=error.detail)
            failure: errors.KsefFailure = error
        else:
            return document.content
    raise failure


def _sources(
    parts: Parts, place: Place, name: UpoName, bearer: ActiveSession
) -> Iterator[Callable[[], Document | None]]:
    gateway = parts.ksef[place.environment]
    now = snapshots.database_now(parts)
    url = snapshots.upo_link(parts, place, name.reference_number, name.key, now)
    if url:
        yield lambda: gateway.download(url)
    yield lambda: _by_api(parts, place, name, bearer)


def _by_api(parts: Parts, place: Place, name: UpoName, bearer: ActiveSession) -> Document:
    gateway = parts.ksef[place.environment]
    if not name.ksef_number:
        return bearer.call(
            UPO_PAGE,
            lambda access: gateway.upo_page(
                access, name.reference_number, name.page_reference_number
            ),
        )
    try:
        return bearer.call(
            UPO, lambda access: gateway.upo(access, name.reference_number, name.ksef_number)
        )
    except errors.UpoNotAvailable as error:
        _raise_if_not_in_session(parts, place, name, error)
        raise


def _raise_if_not_in_session(
    parts: Parts, place: Place, name: UpoName, error: errors.UpoNotAvailable
) -> None:
    """InvoiceNotFound if the kept answer is final and holds no such accepted invoice."""
    kept = snapshots.load(parts, place, name.reference_number)
    if kept is None or not kept.final:
        return
    if all(i.ksef_number != name.ksef_number or not i.is_accepted for i in kept.invoices):
        raise errors.InvoiceNotFound(
            "The session is finished and holds no accepted invoice with this KSeF number.",
            ksef=error.ksef,
        ) from error


def _page_references(parts: Parts, place: Place, reference_number: str) -> list[str]:
    """The reference numbers of the pages; KSeF is asked if the kept answer has none yet."""
    kept = snapshots.load(parts, place, reference_number)
    if kept and (kept.session.upo_pages or _never_gets_upo(kept.session)):
        return _references_in(kept.session)
    question = f"pages {reference_number}"
    refusals.repeat(parts, place, question)
    gateway = parts.ksef[place.environment]
    with parts.places.one(place.company_nip), refusals.remembered(parts, place, question):
        session = ActiveSession(parts, place).call(
            SESSION, lambda access: gateway.session_status(access, reference_number)
        )
        return _references_in(session)


def _references_in(session: SessionStatus) -> list[str]:
    if session.upo_pages:
        return [page.reference_number for page in session.upo_pages]
    at = f"it is at {session.status.code}, {session.status.description}."
    if _never_gets_upo(session):
        raise errors.NoUpoEver(f"The session has no collective UPO: {at}")
    raise errors.UpoNotAvailable(f"The session has no collective UPO yet: {at}")


def _never_gets_upo(session: SessionStatus) -> bool:
    """Whether the session is finished and none of its invoices was accepted."""
    return session.status.is_final and (
        session.status.code != 200 or session.successful_invoice_count == 0
    )


def _check(document: Document, place: Place, name: UpoName) -> None:
    """Raises UpoIntegrity if the document is damaged or not the one asked for.

    Raises KsefInvalidResponse if it is not a readable UPO. A PDF can be checked by its hash only.
    """
    expected = document.sha256
    if expected is not None and expected != hashlib.sha256(document.content).digest():
        raise errors.UpoIntegrity("The UPO does not match the hash that KSeF sent with it.")
    if document.content.startswith(_PDF):
        if expected is None:
            raise errors.KsefInvalidResponse("KSeF sent a PDF without a hash to check it against.")
        return
    _check_belongs(parse_upo(document.content), place, name)


def _check_belongs(upo: Upo, place: Place, name: UpoName) -> None:
    if upo.session_reference_number != name.reference_number:
        raise errors.UpoIntegrity("The UPO is of another session than the one asked for.")
    if upo.context_nip != place.company_nip:
        raise errors.UpoIntegrity("The UPO is of another company than the one that asks.")
    if name.ksef_number and all(d.ksef_number != name.ksef_number for d in upo.documents):
        raise errors.UpoIntegrity("The UPO does not hold the KSeF number asked for.")


def _archive(parts: Parts, place: Place, name: UpoName, document: bytes) -> None:
    """Archive a checked document. If that fails, the caller still gets it."""
    try:
        parts.db.run(
            queries.put_upo,
            **_where(place, name),
            content=document,
            sha256=hashlib.sha256(document).hexdigest(),
        )
    except errors.Unavailable:
        telemetry.warning("a UPO could not be archived", environment=place.environment)


def _as_file(document: bytes, doc_type: DocType) -> UpoFile:
    """The document in the format asked for: KSeF's XML unchanged, or a PDF drawn from it.

    A document that is a PDF already is returned as it is; KsefInvalidResponse if XML is asked for.
    """
    sha256 = hashlib.sha256(document).hexdigest()
    if document.startswith(_PDF):
        if doc_type != "pdf":
            raise errors.KsefInvalidResponse("KSeF sent a PDF instead of the UPO's XML.")
        return UpoFile("pdf", document, sha256)
    if doc_type == "xml":
        return UpoFile("xml", document, sha256)
    pdf = render_upo(parse_upo(document), xml_sha256=sha256)
    return UpoFile("pdf", pdf, hashlib.sha256(pdf).hexdigest())


def render(xml: bytes, *, language: str) -> bytes:
    """The PDF of a UPO's XML, in Polish (pl) or English (en). Raises KsefInvalidResponse."""
    return render_upo(parse_upo(xml), xml_sha256=hashlib.sha256(xml).hexdigest(), language=language)


def _where(place: Place, name: UpoName) -> dict[str, str]:
    return {
        **place.columns,
        "session_reference_number": name.reference_number,
        "ksef_number": name.ksef_number,
        "page_reference_number": name.page_reference_number,
    }
