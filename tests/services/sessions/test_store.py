"""How answers are kept: the newest wins, what is final stays, links are sealed."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec import structs

from app.ksef.wire import Invoice
from app.services.sessions import store
from app.services.sessions.snapshot import Snapshot
from tests.rows import add_offline, add_synced
from tests.services.conftest import NIP, Asking

ORIGINAL = "5265877635-20260329-0100001AF629-4F"
ELSEWHERE = "20220110-SO-0C00000000-0000000003-03"


@pytest.fixture
def moving(asking: Asking) -> Snapshot:
    """An answer of a moving session that is not kept yet."""
    session = asking.seed(state="moving", invoices=[{}, {"status": 150}])
    answer = asking.check(session)
    asking.database.execute("DELETE FROM kept_invoices; DELETE FROM kept_sessions")
    return answer


def accepted(answer: Snapshot) -> Snapshot:
    """The same session when all of it is accepted."""
    done = structs.replace(answer.session.status, code=200, description="Sukces")
    number = "5265877635-20260329-0100001AF629-4F"
    return replace(
        answer,
        session=structs.replace(
            answer.session, status=done, successful_invoice_count=2, failed_invoice_count=0
        ),
        invoices=[
            structs.replace(i, status=done, ksef_number=i.ksef_number or number)
            for i in answer.invoices
        ],
    )


def without_link(invoice: Invoice) -> Invoice:
    return structs.replace(invoice, upo_download_url=None, upo_download_url_expiration_date=None)


def told(snapshot: Snapshot | None) -> Any:
    """What of a snapshot is KSeF's."""
    assert snapshot is not None
    return (
        snapshot.checked_at,
        snapshot.session.status.code,
        [(i.reference_number, i.status.code, i.ksef_number) for i in snapshot.invoices],
    )


def later(snapshot: Snapshot, seconds: float) -> Snapshot:
    return replace(snapshot, checked_at=snapshot.checked_at + timedelta(seconds=seconds))


def test_what_is_stored_is_read(asking: Asking, moving: Snapshot) -> None:
    store.save(asking.account, moving, None)
    kept = store.load(asking.account, moving.reference_number)
    assert told(kept) == told(moving)
    assert kept is not None
    assert [without_link(invoice) for invoice in moving.invoices] == kept.invoices


@pytest.mark.parametrize(
    ("form", "tags", "body"),
    [
        ("1 UTC", [], b"{}"),
        ("1 UTC", ["other"], b"{}"),
        ("1 UTC", ["other", "tag"], None),
        ("1 UTC", ["*"], None),
    ],
)
def test_body_is_read_for_whoever_lacks_it(
    asking: Asking, moving: Snapshot, form: str, tags: list[str], body: bytes | None
) -> None:
    store.save(asking.account, accepted(moving), None)
    store.keep(asking.account, moving.reference_number, "1 UTC", "tag", b"{}")
    written = store.look(asking.account, moving.reference_number, form, tags).written
    assert written is not None
    assert (written.tag, written.body) == ("tag", body)


@pytest.mark.parametrize("tags", [[], ["tag"], ["*"]])
def test_body_of_another_form_is_not_given(
    asking: Asking, moving: Snapshot, tags: list[str]
) -> None:
    store.save(asking.account, accepted(moving), None)
    store.keep(asking.account, moving.reference_number, "1 UTC", "tag", b"{}")
    known = store.look(asking.account, moving.reference_number, "2 UTC", tags)
    assert known.is_kept
    assert known.written is None


def test_nothing_is_read_for_another_company_or_environment(
    asking: Asking, moving: Snapshot
) -> None:
    store.save(asking.account, moving, None)
    for account in (
        asking.service.account("7812019453", "test"),
        asking.service.account(NIP, "demo"),
    ):
        assert store.load(account, moving.reference_number) is None


def test_an_answer_that_was_on_its_way_while_the_older_one_was_confirmed(
    asking: Asking, moving: Snapshot
) -> None:
    """L7. It knows more, though KSeF was asked for it first."""
    store.save(asking.account, moving, None)
    asking.database.execute("UPDATE kept_sessions SET checked_at = checked_at + interval '9 s'")

    done = later(accepted(moving), 3)
    store.save(asking.account, done, moving)

    kept = store.load(asking.account, moving.reference_number)
    assert told(kept) == told(later(done, 6))
    assert kept is not None
    assert kept.final


def test_invoices_that_ksef_does_not_list_any_more_go(asking: Asking, moving: Snapshot) -> None:
    store.save(asking.account, moving, None)
    fewer = replace(later(moving, 1), invoices=moving.invoices[:1])
    store.save(asking.account, fewer, moving)
    kept = store.load(asking.account, moving.reference_number)
    assert told(kept) == told(fewer)


def test_the_same_answer_twice_leaves_the_same_rows(asking: Asking, moving: Snapshot) -> None:
    def rows() -> Any:
        return asking.database.execute("SELECT k.*, i.* FROM kept_sessions k, kept_invoices i")

    store.save(asking.account, moving, None)
    once = rows()
    store.save(asking.account, moving, None)
    assert [row[3:4] for row in rows()] == [row[3:4] for row in once]
    assert told(store.load(asking.account, moving.reference_number)) == told(moving)


def test_a_late_older_answer_never_replaces_a_newer_one(asking: Asking, moving: Snapshot) -> None:
    newer = later(accepted(moving), 5)
    newer = replace(newer, invoices=[newer.invoices[0], moving.invoices[1]])
    store.save(asking.account, newer, None)
    store.save(asking.account, moving, None)
    kept = store.load(asking.account, moving.reference_number)
    assert told(kept) == told(newer)


def test_a_final_answer_is_never_replaced(asking: Asking, moving: Snapshot) -> None:
    final = accepted(moving)
    assert final.final
    store.save(asking.account, final, None)
    store.save(asking.account, later(moving, 60), None)
    kept = store.load(asking.account, moving.reference_number)
    assert told(kept) == told(final)


def test_readers_never_see_counts_of_one_answer_and_the_list_of_another(
    asking: Asking, moving: Snapshot
) -> None:
    store.save(asking.account, moving, None)

    def write() -> None:
        before = moving
        for number in range(60):
            chosen = accepted(moving) if number % 2 else moving
            session = structs.replace(
                chosen.session, status=moving.session.status, failed_invoice_count=number
            )
            invoices = [
                structs.replace(i, ordinal_number=1000 * number + 1) for i in chosen.invoices
            ]
            after = later(replace(chosen, session=session, invoices=invoices), number)
            store.save(asking.account, after, before)
            before = after

    store.load(asking.account, moving.reference_number)  # its connection is made
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen = set()
        while not writing.done():
            kept = store.load(asking.account, moving.reference_number)
            assert kept is not None
            number = kept.session.failed_invoice_count
            if number:
                assert {i.ordinal_number for i in kept.invoices} == {1000 * number + 1}
            seen.add(number)
        writing.result()
    assert len(seen) > 3


def test_links_are_sealed_and_outlive_a_refresh(asking: Asking) -> None:
    """Listed once with one link; the other invoice, asked after singly, adds its own."""
    session = asking.seed(state="moving", invoices=[{}, {"status": 150}])
    asking.check(session)
    [(sealed,)] = asking.database.execute(
        "SELECT string_agg(link, '') FROM kept_invoices WHERE link IS NOT NULL"
    )
    assert sealed
    assert b"http" not in bytes(sealed)
    asking.control.change_session("test", session.reference_number, state="finished")
    assert asking.check(session).final

    done = asking.control.session("test", session.reference_number)

    def links() -> list[str | None]:
        names = (*done.ksef_numbers, *done.upo_pages)
        return [store.upo_link(asking.account, session.reference_number, name) for name in names]

    assert len(done.ksef_numbers) == 2
    assert all("/storage/upo/" in (link or "") for link in links())
    assert store.upo_link(asking.account, session.reference_number, ORIGINAL) is None
    for (sealed_links,) in asking.database.execute("SELECT links FROM kept_sessions"):
        ends = json.loads(asking.account.opened(sealed_links, "download links") or "").values()
    for (sealed_link,) in asking.database.execute("SELECT link FROM kept_invoices"):
        ends = [*ends, json.loads(asking.account.opened(sealed_link, "download link") or "")]
    lifetimes = [datetime.fromisoformat(end) - asking.service.db.now() for _, end in ends]
    assert len(lifetimes) == 3
    assert all(timedelta(hours=71) < lifetime < timedelta(hours=73) for lifetime in lifetimes)


def test_links_that_do_not_open_are_none(asking: Asking) -> None:
    session = asking.seed()
    asking.check(session)
    names = [
        *session.ksef_numbers,
        *asking.control.session("test", session.reference_number).upo_pages,
    ]
    asking.database.execute(
        "UPDATE kept_sessions SET links = 'damaged'; UPDATE kept_invoices SET link = 'damaged'"
    )
    for name in names:
        assert store.upo_link(asking.account, session.reference_number, name) is None


# -- whether everything is linked -----------------------------------------------------------


@pytest.fixture(params=[3, 150], ids=["small", "big"])
def linked(asking: Asking, request: Any) -> Callable[[], bool]:
    """Whether `look` says that all rows of `asking`'s only session are linked."""
    session = asking.seed(
        invoices=[
            *[{} for _ in range(request.param - 1)],
            {
                "status": 440,
                "originalKsefNumber": ORIGINAL,
                "originalSessionReferenceNumber": ELSEWHERE,
            },
        ]
    )
    add_synced(asking.database, asking.account, session.ksef_numbers[:1])
    add_offline(asking.database, asking.account, [session.reference_number])
    asking.check(session)
    return lambda: is_linked(asking, session)


def is_linked(asking: Asking, session: Any) -> bool:
    known = store.look(asking.account, session.reference_number, "", [])
    assert known.is_kept
    return not known.unlinked


def test_linked_as_long_as_no_row_comes(linked: Callable[[], bool]) -> None:
    assert linked()


@pytest.mark.parametrize("session", [None, ELSEWHERE])
def test_not_linked_with_a_row_of_an_accepted_invoice(
    asking: Asking, linked: Callable[[], bool], session: str | None
) -> None:
    [(number,)] = asking.database.execute(
        "SELECT max(ksef_number) FROM kept_invoices"
        " WHERE ksef_number NOT IN (SELECT ksef_number FROM synced_invoices)"
    )
    add_synced(asking.database, asking.account, [number], session=session)
    assert not linked()


@pytest.mark.parametrize(("session", "all_of_them"), [(None, False), (ELSEWHERE, True)])
def test_the_original_of_a_duplicate_only_needs_some_session(
    asking: Asking, linked: Callable[[], bool], session: str | None, all_of_them: bool
) -> None:
    add_synced(asking.database, asking.account, [ORIGINAL], session=session)
    assert linked() == all_of_them


@pytest.mark.parametrize("whose", ["reference_number", "session_reference_number"])
def test_not_linked_with_an_offline_row(
    asking: Asking, linked: Callable[[], bool], whose: str
) -> None:
    asking.database.execute("DELETE FROM offline_invoices")
    [(reference,)] = asking.database.execute(f"SELECT max({whose}) FROM kept_invoices")
    add_offline(asking.database, asking.account, [reference])
    assert not linked()


def test_a_big_session_is_read_in_time_before_the_tables_have_statistics(asking: Asking) -> None:
    """As just after an import or a restore: each row would be compared with each number."""
    session = asking.seed(kind="batch", invoices=5000)
    asking.check(session)
    asking.database.execute(
        "INSERT INTO synced_invoices (company_nip, environment, ksef_number, invoice_number)"
        f" SELECT '{asking.account.company_nip}', 'test', '5265877635-20250826-K-' || n, 'FV'"
        " FROM generate_series(1, 100000) AS n;"
        "INSERT INTO offline_invoices (company_nip, environment, invoice_number, invoice_hash)"
        f" SELECT '{asking.account.company_nip}', 'test', n,"
        " encode(sha256(n::text::bytea), 'base64')"
        " FROM generate_series(1, 100000) AS n"
    )
    assert is_linked(asking, session)
    [(name,)] = asking.database.execute("SELECT min(more ->> 'invoiceHash') FROM kept_invoices")
    asking.database.execute(
        f"UPDATE offline_invoices SET invoice_hash = '{name}' WHERE invoice_number = '77'"
    )
    assert not is_linked(asking, session)
    asking.check(session)
    assert is_linked(asking, session)


def test_a_big_session_is_read_in_time_when_every_row_belongs_to_it(asking: Asking) -> None:
    """As a company's first big batch: to the planner no row seems to be of another session."""
    session = asking.seed(kind="batch", invoices=5000)
    add_synced(asking.database, asking.account, session.ksef_numbers)
    asking.check(session)
    asking.database.execute("ANALYZE synced_invoices")
    assert is_linked(asking, session)
    asking.database.execute(
        "UPDATE synced_invoices SET session_reference_number = NULL"
        f" WHERE ksef_number = '{session.ksef_numbers[-1]}'"
    )
    assert not is_linked(asking, session)
