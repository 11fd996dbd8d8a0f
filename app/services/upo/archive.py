"""The archive of UPOs: KSeF's signed bytes, and who was given them."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from app import errors, telemetry
from app.account import Account
from app.db.pool import retried
from app.db.queries import audit as audit_queries
from app.db.queries import upo as queries
from app.ksef.wire import Invoice
from app.services import outages
from app.services.events import journal
from app.services.operators import audit
from app.upo.verdict import Verdict
from app.upo.xml import Upo, parse_upo

_ROWS = 5000  # looked through by one statement


@dataclass(frozen=True, slots=True)
class ArchivedUpo:
    """A document, and the verdict on its signature: None where it was not judged yet."""

    content: bytes
    signature: Verdict | None


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

    @property
    def question(self) -> str:
        """Under which its absence is remembered."""
        return f"upo {self.reference_number} {self.key}"


def find(account: Account, name: UpoName, doc_type: str) -> ArchivedUpo | None:
    """The document for a caller, None if it is not archived. Raises OutageSimulation.

    The download is audited, unless the database cannot be written to.
    """
    try:
        row = account.db.run(
            queries.hand_out,
            **_where(account, name),
            **audit.actor.get().columns,
            what=audit.What.UPO_DOWNLOADED,
            detail=_detail(name, doc_type),
        )
    except errors.NotWritable:
        _warn_not_audited(account)
        outages.refuse_if_simulated(account)
        return get(account, name)
    if row is None:
        outages.refuse_if_simulated(account)
    return archived(row) if row else None


def note_download(account: Account, name: UpoName, doc_type: str) -> None:
    """Record who got a document. If that fails, the caller still gets it."""
    try:
        account.db.run(
            audit_queries.note,
            **audit.actor.get().columns,
            **account.columns,
            what=audit.What.UPO_DOWNLOADED,
            detail=_detail(name, doc_type),
        )
    except errors.Unavailable:
        _warn_not_audited(account)


def get(account: Account, name: UpoName) -> ArchivedUpo | None:
    """The document from the archive; None if it is not there."""
    row = account.db.run(queries.get_upo, **_where(account, name))
    return archived(row) if row else None


def archived(row: Any) -> ArchivedUpo:
    """The document of a row of `upos`."""
    verdict = None
    if row.signature is not None:
        verdict = Verdict(row.signature, row.signer, row.signed_at, row.certificate_sha256)
    return ArchivedUpo(bytes(row.content), verdict)


def put(account: Account, name: UpoName, document: bytes, signature: Verdict) -> None:
    """Archive a checked document. If that fails, the caller still gets it.

    That it was the last one of its session is written to the journal with it.
    """
    try:
        _put(account, name, document, signature)
    except errors.Unavailable:
        telemetry.warning("a UPO could not be archived", environment=account.environment)


@retried
def _put(account: Account, name: UpoName, document: bytes, signature: Verdict) -> None:
    with account.db.transaction() as connection:
        journal.lock_session(connection, account, name.reference_number)
        queries.put_upo(
            connection,
            **_where(account, name),
            question=name.question,
            content=document,
            sha256=hashlib.sha256(document).hexdigest(),
            ksef_host=account.ksef_host,
            **_columns(signature),
        )
        journal.note_if_archived(connection, account, name.reference_number)


def set_signature(account: Account, name: UpoName, signature: Verdict) -> None:
    """Store the verdict on a document. If that fails, it is judged again the next time."""
    try:
        account.db.run(queries.set_signature, **_where(account, name), **_columns(signature))
    except errors.Unavailable:
        telemetry.warning("the verdict on a UPO could not be stored", **account.log_fields)


def pages(account: Account, reference_number: str) -> list[tuple[str, ArchivedUpo]]:
    """(reference number, document) of each page, in order; empty if one is missing."""
    return in_order(_pages(account, reference_number))


def in_order(documents: Iterable[tuple[str, ArchivedUpo]]) -> list[tuple[str, ArchivedUpo]]:
    """The pages in the order of their numbers; empty if one is missing.

    Each page says how many there are.
    """
    found, total = {}, 0
    for reference_number, document in documents:
        number, pages_of_it = _number(parse_upo(document.content))
        found[number] = (reference_number, document)
        total = max(total, pages_of_it)
    numbers = range(1, total + 1)
    return [found[number] for number in numbers] if found.keys() == {*numbers} else []


def is_known_page(account: Account, name: UpoName, upo: Upo) -> bool:
    """Whether another page of the session has this number already."""
    return any(
        _number(parse_upo(document.content))[0] == _number(upo)[0]
        for page, document in _pages(account, name.reference_number)
        if page != name.page_reference_number
    )


def _pages(account: Account, reference_number: str) -> list[tuple[str, ArchivedUpo]]:
    rows = account.db.rows(
        queries.get_pages, **account.columns, session_reference_number=reference_number
    )
    return [(row.page_reference_number, archived(row)) for row in rows]


def _number(upo: Upo) -> tuple[int, int]:
    """Which page it is, and of how many."""
    return (upo.page.page, upo.page.pages) if upo.page else (1, 1)


def missing(account: Account) -> Iterator[UpoName]:
    """The UPOs of linked invoices that are not archived yet.

    Found by small statements: a company may have millions of rows.
    """
    after = ""
    while True:
        found = account.db.run(queries.missing_upos, **account.columns, after=after, batch=_ROWS)
        if found.last is None:
            return
        for ksef_number, session in zip(
            found.ksef_numbers, found.session_reference_numbers, strict=True
        ):
            yield UpoName(session, ksef_number=ksef_number)
        after = found.last


def missing_of(account: Account, reference_number: str, most: int) -> list[UpoName]:
    """Up to so many UPOs of a kept session's accepted invoices that are not archived."""
    rows = account.db.rows(
        queries.missing_of_session,
        **account.columns,
        session_reference_number=reference_number,
        most=most,
    )
    return [UpoName(reference_number, ksef_number=row.ksef_number) for row in rows]


def _columns(signature: Verdict) -> dict[str, Any]:
    return {
        "signature": signature.state,
        "signer": signature.signer,
        "signed_at": signature.signed_at,
        "certificate_sha256": signature.certificate_sha256,
    }


def walk(
    account: Account,
    *,
    first_day: str = "",
    last_day: str = "9",
    unproven: bool = False,
) -> Iterator[tuple[UpoName, Any]]:
    """The archived documents of these days (YYYYMMDD), without their content: name and row.

    The day is that in the KSeF number; for a page of a collective UPO, in the session's.
    `unproven`: only those that are not known to be valid. Read by small statements.
    """
    after = {"reference_number": "", "ksef_number": "", "page": ""}
    chosen = {"first_day": first_day, "last_day": last_day, "unproven": unproven}
    while True:
        rows = account.db.rows(
            queries.archived_upos, **account.columns, **after, **chosen, batch=_ROWS
        )
        for row in rows:
            if row.wanted:
                yield UpoName(row.reference_number, row.ksef_number, row.page), row
        if len(rows) < _ROWS:
            return
        after = {name: getattr(rows[-1], name) for name in after}


def unknown_signers(account: Account) -> list[Any]:
    """Rows with certificate_sha256, signer, and how many archived documents it has signed."""
    return account.db.rows(queries.unknown_signers, **account.columns)


def signatures(
    account: Account, reference_number: str, invoices: Sequence[Invoice]
) -> dict[str | None, str | None]:
    """The verdict on the archived UPO of each of a session's invoices, by KSeF number.

    None where there is none, or none in the archive.
    """
    numbers = [invoice.ksef_number for invoice in invoices if invoice.ksef_number]
    rows = account.db.rows(
        queries.signatures,
        **account.columns,
        session_reference_number=reference_number,
        ksef_numbers=numbers,
    )
    return defaultdict(lambda: None, {row.ksef_number: row.signature for row in rows})


def invoice_hashes(account: Account, name: UpoName) -> dict[str, str]:
    """By KSeF number the hash of each accepted file that the UPO proves, where it is kept."""
    rows = account.db.rows(
        queries.invoice_hashes,
        **account.columns,
        session_reference_number=name.reference_number,
        ksef_number=name.ksef_number or None,
    )
    return {row.ksef_number: row.invoice_hash for row in rows}


def _detail(name: UpoName, doc_type: str) -> str:
    return " ".join(filter(None, (name.reference_number, name.key, doc_type)))


def _warn_not_audited(account: Account) -> None:
    telemetry.warning("the download of a UPO could not be audited", **account.log_fields)


def _where(account: Account, name: UpoName) -> dict[str, str]:
    return {
        **account.columns,
        "session_reference_number": name.reference_number,
        "ksef_number": name.ksef_number,
        "page_reference_number": name.page_reference_number,
    }
