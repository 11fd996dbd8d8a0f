"""Snapshots in the database, and final answers as the bytes that were sent."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import zstandard

from app import errors
from app.account import Account
from app.db.pool import retried
from app.db.queries import sessions as queries
from app.ksef import wire
from app.ksef.wire import Invoice, Session
from app.services.events import journal
from app.services.events.journal import Kind
from app.services.sessions.snapshot import Snapshot

_LINK = "download link"
_LINKS = "download links"  # of the pages of the collective UPO
_LEVEL = 1  # of zstd: a sixth of the size, in 4 ms for 10,000; of hashes higher ones save nothing


@dataclass(frozen=True, slots=True)
class Written:
    """A final answer as it was sent before, `age` seconds old; no body for a caller that has it."""

    tag: str
    body: bytes | None
    age: float


@dataclass(frozen=True, slots=True)
class Known:
    """What decides how a status check is answered, read by one statement.

    `is_simulated`: an outage, for the company. `is_kept`: there is an answer; `written`: as it was
    sent before, if it was sent in the form asked for. `unlinked`: a row of the company is to be
    linked to the session; `is_spared`: that was not looked at this time, None for callers who are
    never spared it.
    """

    is_simulated: bool
    is_kept: bool
    written: Written | None
    unlinked: bool
    is_spared: bool | None


def question(reference_number: str) -> str:
    """Under which is remembered that KSeF knows no such session, and by which one asks alone."""
    return f"session {reference_number}"


def look(account: Account, reference_number: str, form: str, tags: Sequence[str]) -> Known:
    """What decides how a check of this session is answered, for a body in `form`.

    `tags`: of the bodies that the caller has, from If-None-Match; `*` stands for any.
    """
    row = account.db.run(
        queries.look,
        **_where(account, reference_number),
        form=form,
        tags=list(tags),
        look_every=account.timing.look_every,
    )
    body = None if row.body is None else zstandard.ZstdDecompressor().decompress(row.body)
    return Known(
        is_simulated=row.is_simulated,
        is_kept=row.final is not None,
        written=None if row.tag is None else Written(row.tag, body, row.age),
        unlinked=row.unlinked,
        is_spared=row.is_spared,
    )


def mark_looked(account: Account, reference_number: str) -> None:
    """Note that no row is to be linked: callers that have the answer are spared the look."""
    with suppress(errors.Unavailable):  # the answer can be given all the same
        account.db.run(
            queries.mark_looked,
            **_where(account, reference_number),
            look_every=account.timing.look_every,
        )


def keep(account: Account, reference_number: str, form: str, tag: str, body: bytes) -> None:
    """Keep the body of a final answer, and its tag, to be sent again as it is.

    `form` names how it was written (version and time zone): to be found, it must be asked for in
    the same. If that fails, the answer is written anew next time.
    """
    with suppress(errors.Unavailable):
        account.db.run(
            queries.keep_body,
            **_where(account, reference_number),
            form=form,
            tag=tag,
            body=zstandard.ZstdCompressor(_LEVEL).compress(body),
        )


def load(
    account: Account, reference_number: str, *, newer_than: Snapshot | None = None
) -> Snapshot | None:
    """The kept snapshot with all invoices, but without download links; None for none.

    With `newer_than`, None also where KSeF has not been asked since that one was loaded.
    """
    row = account.db.run(
        queries.get_session,
        **_where(account, reference_number),
        asked_since=newer_than.asked_at if newer_than else None,
        completed_within=account.timing.completed_within,
    )
    if row is None:
        return None
    return Snapshot(
        reference_number,
        wire.decode(Session, row.session),
        wire.decode(list[Invoice], row.invoices or "[]"),
        row.checked_at,
        listed=row.listed_at is not None,
        asked_at=row.asked_at,
        age=row.age,
        asked_ago=row.asked_ago,
        unchanged_for=row.unchanged_for,
        listed_for=row.listed_for,
        wanted_ago=row.wanted_ago,
        incomplete=row.incomplete,
    )


def mark_asked(
    account: Account, reference_number: str, asked_at: datetime, *, listed: bool
) -> None:
    """Note that KSeF was asked (and its list fetched) without a new answer: the kept one counts as
    fresh for a while."""
    account.db.run(
        queries.mark_asked, **_where(account, reference_number), asked_at=asked_at, listed=listed
    )


def mark_wanted(account: Account, kept: Snapshot) -> None:
    """Note that a caller asked for the session, unless that was noted a short while ago."""
    if kept.wanted_ago > account.timing.wanted / 2:
        with suppress(errors.Unavailable):  # the answer can be given all the same
            account.db.run(queries.mark_wanted, **_where(account, kept.reference_number))


def save(account: Account, new: Snapshot, old: Snapshot | None) -> None:
    """Store a snapshot, unless a newer or final one is stored already. `old`: the one before.

    A final one that was incomplete is replaced by the same one, completed. That a session has
    become final is written to the journal with it.
    """
    completes = old is not None and old.final and old.incomplete
    known = {one.reference_number: one for one in old.invoices} if old else {}
    changed = [
        one
        for one in new.invoices
        if completes
        or (before := known.get(one.reference_number)) is None
        or before != wire.without_links(one)
    ]
    gone = list(known.keys() - {one.reference_number for one in new.invoices})
    session = wire.to_json(new.session)
    values = dict(
        **_where(account, new.reference_number),
        question=question(new.reference_number),
        session=session,
        links=_session_links(account, new),
        final=new.final,
        checked_at=new.checked_at,
        is_known=old is not None,
        completes=completes,
        changed=old is None or bool(changed or gone) or wire.to_json(old.session) != session,
        listed=new.listed,
        invoices=wire.to_json(changed),
        invoice_links=msgspec.json.encode(_invoice_links(account, changed)).decode(),
        gone=gone,
    )
    if new.final and not (old and old.final):
        stored = _put_final(account, new, values)
    else:
        stored = account.db.run(queries.put_session, **values)
    if old and not stored and not completes:  # a newer one is, or the old one was purged meanwhile
        save(account, new, None)


@retried
def _put_final(account: Account, new: Snapshot, values: dict[str, Any]) -> int:
    with account.db.transaction() as connection:
        journal.lock_session(connection, account, new.reference_number)
        stored: int = queries.put_session(connection, **values)
        if stored:
            journal.note(
                connection,
                Kind.SESSION_FINAL,
                **account.columns,
                data={
                    "referenceNumber": new.reference_number,
                    "code": new.session.status.code,
                    "totalInvoiceCount": new.session.invoice_count,
                    "successfulInvoiceCount": new.session.successful_invoice_count,
                    "failedInvoiceCount": new.session.failed_invoice_count,
                },
            )
            journal.note_if_archived(connection, account, new.reference_number)
    return stored


def upo_link(account: Account, reference_number: str, name: str) -> str | None:
    """A kept download link that is still valid, else None.

    `name`: an invoice's KSeF number, or the reference number of a page of the session's UPO.
    """
    row = account.db.run(queries.get_link, **_where(account, reference_number), name=name)
    links: dict[str, tuple[str, str]] = {}
    if row and row.link:
        links[name] = msgspec.json.decode(account.opened(row.link, _LINK) or '["", ""]')
    elif row and row.links:
        links = msgspec.json.decode(account.opened(row.links, _LINKS) or "{}")
    url, valid_until = links.get(name, ("", ""))
    return url if url and datetime.fromisoformat(valid_until) > row.now else None


def _invoice_links(account: Account, invoices: Sequence[Invoice]) -> list[bytes | None]:
    """The download link of each invoice, sealed by itself; None for one that has none."""
    links = [_link(one.upo_download_url, one.upo_download_url_expiration_date) for one in invoices]
    secrets = [msgspec.json.encode(link).decode() for link in links if link]
    sealed = iter(account.seal_all(secrets, _LINK))
    return [next(sealed) if link else None for link in links]


def _session_links(account: Account, snapshot: Snapshot) -> bytes | None:
    """The links of the pages of the collective UPO as one sealed value.

    None if neither they nor the invoices have any: `purge` finds by it which are to be forgotten.
    """
    links = {
        page.reference_number: link
        for page in snapshot.session.upo_pages
        if (link := _link(page.download_url, page.download_url_expiration_date))
    }
    if not links and not any(invoice.upo_download_url for invoice in snapshot.invoices):
        return None
    return account.seal(msgspec.json.encode(links).decode(), _LINKS)


def _link(url: str | None, valid_until: datetime | None) -> tuple[str, datetime] | None:
    return (url, valid_until) if url and valid_until else None


def _where(account: Account, reference_number: str) -> dict[str, str]:
    return {**account.columns, "reference_number": reference_number}
