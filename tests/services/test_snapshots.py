"""How answers are kept: the newest wins, what is final stays, links are sealed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.services import snapshots
from app.services.parts import Place
from app.services.snapshots import Snapshot
from tests.rows import add_offline, add_synced
from tests.services.conftest import Asking


@pytest.fixture
def moving(asking: Asking) -> Snapshot:
    """An answer of a moving session that is not kept yet."""
    session = asking.seed(state="moving", invoices=[{}, {"status": 150}])
    answer = asking.check(session)
    asking.database.execute("DELETE FROM kept_invoices; DELETE FROM kept_sessions")
    return answer


def accepted(answer: Snapshot) -> Snapshot:
    """The same session when all of it is accepted."""
    done = replace(answer.session.status, code=200, description="Sukces")
    number = "5265877635-20260329-0100001AF629-4F"
    return replace(
        answer,
        session=replace(
            answer.session, status=done, successful_invoice_count=2, failed_invoice_count=0
        ),
        invoices=[
            replace(i, status=done, ksef_number=i.ksef_number or number) for i in answer.invoices
        ],
    )


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
    snapshots.store(asking.parts, asking.place, moving, None)
    kept = snapshots.load(asking.parts, asking.place, moving.reference_number)
    assert told(kept) == told(moving)
    assert kept is not None
    assert [replace(i, upo_link=None) for i in moving.invoices] == kept.invoices


def test_nothing_is_read_for_another_company_or_environment(
    asking: Asking, moving: Snapshot
) -> None:
    snapshots.store(asking.parts, asking.place, moving, None)
    for place in (Place("7812019453", "test"), Place(asking.place.company_nip, "demo")):
        assert snapshots.load(asking.parts, place, moving.reference_number) is None


def test_an_answer_that_was_on_its_way_while_the_older_one_was_confirmed(
    asking: Asking, moving: Snapshot
) -> None:
    """L7. It knows more, though KSeF was asked for it first."""
    snapshots.store(asking.parts, asking.place, moving, None)
    asking.database.execute("UPDATE kept_sessions SET checked_at = checked_at + interval '9 s'")

    done = later(accepted(moving), 3)
    snapshots.store(asking.parts, asking.place, done, moving)

    kept = snapshots.load(asking.parts, asking.place, moving.reference_number)
    assert told(kept) == told(later(done, 6))
    assert kept is not None
    assert kept.final


def test_invoices_that_ksef_does_not_list_any_more_go(asking: Asking, moving: Snapshot) -> None:
    snapshots.store(asking.parts, asking.place, moving, None)
    fewer = replace(later(moving, 1), invoices=moving.invoices[:1])
    snapshots.store(asking.parts, asking.place, fewer, moving)
    kept = snapshots.load(asking.parts, asking.place, moving.reference_number)
    assert told(kept) == told(fewer)


def test_the_same_answer_twice_leaves_the_same_rows(asking: Asking, moving: Snapshot) -> None:
    def rows() -> Any:
        return asking.database.execute("SELECT k.*, i.* FROM kept_sessions k, kept_invoices i")

    snapshots.store(asking.parts, asking.place, moving, None)
    once = rows()
    snapshots.store(asking.parts, asking.place, moving, None)
    assert [row[3:4] for row in rows()] == [row[3:4] for row in once]
    assert told(snapshots.load(asking.parts, asking.place, moving.reference_number)) == told(moving)


def test_a_late_older_answer_never_replaces_a_newer_one(asking: Asking, moving: Snapshot) -> None:
    newer = later(accepted(moving), 5)
    newer = replace(newer, invoices=[newer.invoices[0], moving.invoices[1]])
    snapshots.store(asking.parts, asking.place, newer, None)
    snapshots.store(asking.parts, asking.place, moving, None)
    kept = snapshots.load(asking.parts, asking.place, moving.reference_number)
    assert told(kept) == told(newer)


def test_a_final_answer_is_never_replaced(asking: Asking, moving: Snapshot) -> None:
    final = accepted(moving)
    assert final.final
    snapshots.store(asking.parts, asking.place, final, None)
    snapshots.store(asking.parts, asking.place, later(moving, 60), None)
    kept = snapshots.load(asking.parts, asking.place, moving.reference_number)
    assert told(kept) == told(final)


def test_readers_never_see_counts_of_one_answer_and_the_list_of_another(
    asking: Asking, moving: Snapshot
) -> None:
    snapshots.store(asking.parts, asking.place, moving, None)

    def write() -> None:
        before = moving
        for number in range(60):
            chosen = accepted(moving) if number % 2 else moving
            session = replace(
                chosen.session, status=moving.session.status, failed_invoice_count=number
            )
            invoices = [replace(i, ordinal_number=1000 * number + 1) for i in chosen.invoices]
            after = later(replace(chosen, session=session, invoices=invoices), number)
            snapshots.store(asking.parts, asking.place, after, before)
            before = after

    snapshots.load(asking.parts, asking.place, moving.reference_number)  # its connection is made
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen = set()
        while not writing.done():
            kept = snapshots.load(asking.parts, asking.place, moving.reference_number)
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
    [(sealed,)] = asking.database.execute("SELECT links FROM kept_sessions")
    assert b"http" not in bytes(sealed)
    asking.control.change_session("test", session.reference_number, state="finished")
    assert asking.check(session).final

    done = asking.control.session("test", session.reference_number)
    now = snapshots.database_now(asking.parts)

    def link(name: str, at: Any = now) -> str | None:
        return snapshots.upo_link(asking.parts, asking.place, session.reference_number, name, at)

    assert len(done.ksef_numbers) == 2
    for name in (*done.ksef_numbers, *done.upo_pages):
        assert "/storage/upo/" in (link(name) or "")
        assert link(name, now + timedelta(hours=73)) is None
    assert link("5265877635-20260329-0100001AF629-4F") is None


def test_links_that_do_not_open_are_none(asking: Asking) -> None:
    session = asking.seed()
    asking.check(session)
    asking.database.execute("UPDATE kept_sessions SET links = 'damaged'")
    now = snapshots.database_now(asking.parts)
    assert (
        snapshots.upo_link(
            asking.parts, asking.place, session.reference_number, session.ksef_numbers[0], now
        )
        is None
    )


# -- whether everything is linked -----------------------------------------------------------


ORIGINAL = "5265877635-20260329-0100001AF629-4F"
ELSEWHERE = "20220110-SO-0C00000000-0000000003-03"


@pytest.fixture(params=[3, 150], ids=["in the same statement", "in one of its own"])
def linked(asking: Asking, request: Any) -> Callable[[], bool]:
    """Whether the kept answer of `asking`'s only session says that all its rows are linked."""
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
    add_synced(asking.database, asking.place, session.ksef_numbers[:1])
    add_offline(asking.database, asking.place, [session.reference_number])
    asking.check(session)

    def see() -> bool:
        kept = snapshots.load(asking.parts, asking.place, session.reference_number)
        assert kept is not None
        assert len(kept.invoices) == request.param
        return kept.linked

    return see


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
    add_synced(asking.database, asking.place, [number], session=session)
    assert not linked()


@pytest.mark.parametrize(("session", "all_of_them"), [(None, False), (ELSEWHERE, True)])
def test_the_original_of_a_duplicate_only_needs_some_session(
    asking: Asking, linked: Callable[[], bool], session: str | None, all_of_them: bool
) -> None:
    add_synced(asking.database, asking.place, [ORIGINAL], session=session)
    assert linked() == all_of_them


@pytest.mark.parametrize("whose", ["reference_number", "session_reference_number"])
def test_not_linked_with_an_offline_row(
    asking: Asking, linked: Callable[[], bool], whose: str
) -> None:
    asking.database.execute("DELETE FROM offline_invoices")
    [(reference,)] = asking.database.execute(f"SELECT max({whose}) FROM kept_invoices")
    add_offline(asking.database, asking.place, [reference])
    assert not linked()


def test_a_big_session_is_read_in_time_before_the_tables_have_statistics(asking: Asking) -> None:
    """As just after an import or a restore: each row would be compared with each number."""
    session = asking.seed(kind="batch", invoices=5000)
    asking.check(session)
    asking.database.execute(
        "INSERT INTO synced_invoices (company_nip, environment, ksef_number, invoice_number)"
        f" SELECT '{asking.place.company_nip}', 'test', 'K' || n, 'FV'"
        " FROM generate_series(1, 100000) AS n"
    )
    kept = snapshots.load(asking.parts, asking.place, session.reference_number)
    assert kept is not None
    assert kept.linked
