"""Events are told once, in an order in which nothing comes later before what was read."""

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest

from app import errors
from app.account import Account
from app.db.queries import events as queries
from app.db.queries import outages as outage_queries
from app.db.queries import upo as upo_queries
from app.service import Service
from app.services.events import journal, webhooks
from app.services.events.journal import Kind
from app.services.login import credentials, session
from app.services.operators import users
from app.services.sessions.check import check_session
from tests.service import Company
from tests.services.events.conftest import NIP

OTHER_NIP = "7812019453"


def told(account: Account) -> list[tuple[str, Any]]:
    """(type, reference number) of all events."""
    return [(event.type, event.reference_number) for event in everything(account)]


def everything(account: Account) -> list[Any]:
    return list(journal.read(account, None, 1000).events)


def stuck(connection: Any, reference: str, nip: str | None = NIP) -> None:
    journal.note(
        connection,
        Kind.SESSION_STUCK,
        company_nip=nip,
        environment="test",
        data={"referenceNumber": reference},
    )


class TestOrder:
    def test_nothing_that_is_committed_later_comes_before_what_was_read(
        self, service: Service, account: Account
    ) -> None:
        """The second waits for the first, so that it cannot be committed before it."""
        written = threading.Event()

        def second() -> None:
            with service.db.transaction() as connection:
                stuck(connection, "SECOND")
            written.set()

        with service.db.transaction() as connection:
            stuck(connection, "FIRST")
            other = threading.Thread(target=second)
            other.start()
            assert not written.wait(0.3)
            assert told(account) == []
        other.join()
        assert told(account) == [("session.stuck", "FIRST"), ("session.stuck", "SECOND")]

    def test_a_reader_beside_many_writers_misses_none_and_sees_none_twice(
        self, service: Service, account: Account
    ) -> None:
        def write(writer: int) -> None:
            for n in range(15):
                with service.db.transaction() as connection:
                    stuck(connection, f"{writer}-{n}")
                    time.sleep(0.001 * (writer % 3))

        writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for writer in writers:
            writer.start()
        seen: list[Any] = []
        after = None
        are_done, page = False, None
        while not (are_done and page and not page.events):
            are_done = not any(writer.is_alive() for writer in writers)
            page = journal.read(account, after, 7)
            seen += [event.reference_number for event in page.events]
            after = page.next
        assert seen == [event.reference_number for event in everything(account)]
        assert sorted(seen) == sorted(f"{w}-{n}" for w in range(4) for n in range(15))

    def test_a_foreign_transaction_holds_nothing_back(
        self, service: Service, account: Account, database: Any
    ) -> None:
        foreign = psycopg2.connect(database.owner_dsn)
        with foreign.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()")
        with service.db.transaction() as connection:
            stuck(connection, "A")
        assert told(account) == [("session.stuck", "A")]
        foreign.close()

    def test_pages_follow_each_other(self, service: Service, account: Account) -> None:
        empty = journal.read(account, None, 2)
        assert (empty.events, empty.next, empty.is_last) == ([], None, True)
        with service.db.transaction() as connection:
            for name in "ABC":
                stuck(connection, name)
        first = journal.read(account, None, 2)
        second = journal.read(account, first.next, 2)
        third = journal.read(account, second.next, 2)
        assert [e.reference_number for e in (*first.events, *second.events)] == ["A", "B", "C"]
        assert (first.is_last, second.is_last) == (False, True)
        assert (third.events, third.next) == ([], second.next)

    def test_a_cursor_of_another_history_is_refused(
        self, service: Service, account: Account, database: Any
    ) -> None:
        """A restore from a backup gives the same numbers to other events."""
        with service.db.transaction() as connection:
            stuck(connection, "A")
            stuck(connection, "B")
        cursor = journal.read(account, None, 10).next
        database.execute("DELETE FROM events WHERE number = 2; UPDATE event_numbers SET last = 1")
        with pytest.raises(errors.InvalidParameter):
            journal.read(account, cursor, 10)
        with service.db.transaction() as connection:
            stuck(connection, "C")
        with pytest.raises(errors.InvalidParameter):
            journal.read(account, cursor, 10)
        database.execute("DELETE FROM events")  # purged: what came after it is read on
        assert journal.read(account, cursor, 10).events == []

    @pytest.mark.parametrize(
        ("read", "purged", "is_refused"), [(1, 2, True), (1, 3, True), (2, 2, False), (3, 3, False)]
    )
    def test_one_who_comes_after_a_purge_is_told_what_he_missed(
        self,
        service: Service,
        account: Account,
        database: Any,
        read: int,
        purged: int,
        is_refused: bool,
    ) -> None:
        with service.db.transaction() as connection:
            for name in "ABC":
                stuck(connection, name)
        cursor = journal.read(account, None, read).next
        database.execute(
            f"UPDATE events SET at = now() - interval '40 days' WHERE number <= {purged}"
        )
        assert journal.purge(service.db, 30) == purged
        if is_refused:
            with pytest.raises(errors.InvalidParameter):
                journal.read(account, cursor, 10)
        else:
            assert len(journal.read(account, cursor, 10).events) == 3 - purged
        assert len(journal.read(account, None, 10).events) == 3 - purged

    def test_what_is_rolled_back_was_never_told(self, service: Service, account: Account) -> None:
        def fail(connection: Any) -> None:
            stuck(connection, "A")
            raise RuntimeError

        with pytest.raises(RuntimeError), service.db.transaction() as connection:
            fail(connection)
        with service.db.transaction() as connection:
            stuck(connection, "B")
        assert told(account) == [("session.stuck", "B")]


class TestOnce:
    def test_two_that_see_the_same_at_once_tell_it_once(
        self, service: Service, account: Account
    ) -> None:
        barrier = threading.Barrier(4)

        def see() -> None:
            for n in range(10):
                barrier.wait()
                with service.db.transaction() as connection:
                    stuck(connection, f"S{n}")

        threads = [threading.Thread(target=see) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told(account) == [("session.stuck", f"S{n}") for n in range(10)]

    def test_an_event_of_an_environment_is_every_company_s(
        self, service: Service, account: Account, database: Any
    ) -> None:
        users.add_company(service.db, OTHER_NIP, "Inna")
        service.db.run(outage_queries.count_failure, environment="test")
        for _ in range(2):
            journal.begin_outage(service.db, "test", since=None, source="breaker")
        journal.end_outage(service.db, "test")
        for nip in (NIP, OTHER_NIP):
            events = everything(service.account(nip, "test"))
            assert [event.type for event in events] == ["outage.began"]
        service.db.run(outage_queries.note_answer, environment="test")
        for _ in range(2):
            journal.end_outage(service.db, "test")
        for nip in (NIP, OTHER_NIP):
            events = everything(service.account(nip, "test"))
            assert [event.type for event in events] == ["outage.began", "outage.ended"]
            assert everything(service.account(nip, "prod")) == []


class TestSessions:
    @pytest.fixture
    def company(self, make_company: Callable[..., Company]) -> Company:
        return make_company(NIP, environments=("test",))

    def test_the_end_of_a_session_is_told_with_its_counts(
        self, company: Company, control: Any
    ) -> None:
        seeded = control.seed_session("test", NIP, invoices=3)
        for _ in range(3):
            check_session(company.account(), seeded.reference_number)
        [event] = everything(company.account())
        assert event.type == "session.final"
        assert event.reference_number == seeded.reference_number
        assert (event.code, event.total_invoice_count) == (200, 3)
        assert (event.successful_invoice_count, event.failed_invoice_count) == (3, 0)

    def test_a_moving_session_is_not_told(self, company: Company, control: Any) -> None:
        seeded = control.seed_session("test", NIP, invoices=2, state="moving")
        check_session(company.account(), seeded.reference_number)
        assert everything(company.account()) == []

    def test_a_final_answer_from_the_store_writes_nothing(
        self, company: Company, control: Any, database: Any
    ) -> None:
        seeded = control.seed_session("test", NIP, invoices=2)
        path = f"/invoices/test/status/{seeded.reference_number}"
        assert company.get(path).json["final"] is True
        written = (
            "SELECT sum(n_tup_ins + n_tup_upd) FROM pg_stat_user_tables"
            " WHERE relname IN ('events', 'event_numbers', 'kept_sessions')"
        )

        def count() -> Any:
            # A connection says what it wrote a second later at the earliest, unless told to.
            with company.service.db.transaction() as connection, connection.cursor() as cursor:
                cursor.execute("SELECT pg_stat_force_next_flush()")
            return database.execute(written)

        before = count()
        assert company.get(path).status_code == 200
        assert count() == before

    @pytest.mark.parametrize("checked_first", [True, False])
    def test_the_last_upo_of_a_session_is_told(
        self, company: Company, control: Any, database: Any, checked_first: bool
    ) -> None:
        seeded = control.seed_session("test", NIP, invoices=2)
        path = f"/invoices/test/status/{seeded.reference_number}"
        if checked_first:
            company.get(path)
        for n, invoice in enumerate(seeded.invoices):
            assert ("upo.archived", seeded.reference_number) not in told(company.account()), n
            assert company.get(f"{path}/{invoice.ksef_number}/upo").status_code == 200
        company.get(path)
        assert sorted(told(company.account())) == [
            ("session.final", seeded.reference_number),
            ("upo.archived", seeded.reference_number),
        ]
        upos = [e for e in everything(company.account()) if e.type == "upo.archived"]
        assert [event.upo_count for event in upos] == [2]

    def test_the_collective_upo_counts_for_all(self, company: Company, control: Any) -> None:
        seeded = control.seed_session("test", NIP, invoices=3)
        path = f"/invoices/test/status/{seeded.reference_number}"
        company.get(path)
        assert company.get(f"{path}/upo").status_code == 200
        assert company.get(f"{path}/{seeded.invoices[0].ksef_number}/upo").status_code == 200
        [_, event] = everything(company.account())
        assert (event.type, event.upo_count) == ("upo.archived", 3)

    def test_two_last_upos_at_the_same_moment_are_told_by_the_later_one(
        self, company: Company, control: Any, service: Service
    ) -> None:
        seeded = control.seed_session("test", NIP, invoices=2)
        path = f"/invoices/test/status/{seeded.reference_number}"
        company.get(path)
        first, second = (invoice.ksef_number for invoice in seeded.invoices)
        got = threading.Thread(target=company.get, args=(f"{path}/{second}/upo",))
        with service.db.transaction() as connection:
            journal.lock_session(connection, company.account(), seeded.reference_number)
            got.start()
            upo_queries.put_upo(
                connection,
                **company.account().columns,
                session_reference_number=seeded.reference_number,
                ksef_number=first,
                page_reference_number="",
                question="upo",
                content=b"<Potwierdzenie/>",
                sha256="",
                ksef_host="",
                **dict.fromkeys(("signature", "signer", "signed_at", "certificate_sha256")),
            )
            journal.note_if_archived(connection, company.account(), seeded.reference_number)
            got.join(0.5)
        got.join()
        assert told(company.account()) == [
            ("session.final", seeded.reference_number),
            ("upo.archived", seeded.reference_number),
        ]

    def test_a_refused_credential_is_told_when_it_begins(
        self, company: Company, control: Any, service: Service
    ) -> None:
        account = company.account()
        credentials.store_token(account, "wrong-token")
        session.log_out(account)
        for _ in range(2):
            with pytest.raises(credentials.LoginRefused):
                session.log_in(account, by_operator=True)
        [event] = everything(account)
        assert (event.type, event.code) == ("credential.refused", 450)

    def test_a_certificate_s_end_is_told_once_for_each_of_its_days(
        self, company: Company, service: Service, database: Any
    ) -> None:
        def ends_in(hours: float) -> None:
            database.execute(
                "UPDATE ksef_credentials SET method = 'certificate', certificate_valid_until ="
                f" date_trunc('day', now()) + interval '40 days' + interval '{hours} hours'"
            )

        def pass_days(days: float) -> list[int]:
            database.execute(
                "UPDATE events SET key = regexp_replace(key, '^[0-9]+', (SELECT extract(epoch FROM"
                f" certificate_valid_until - interval '{days} days')::bigint::text FROM"
                " ksef_credentials LIMIT 1));"
                " UPDATE ksef_credentials SET certificate_valid_until = certificate_valid_until"
                f" - interval '{days} days'"
            )
            for _ in range(2):
                journal.note_expiring(service.db)
            return [event.days for event in everything(company.account())]

        ends_in(12)
        assert pass_days(0) == []
        assert pass_days(11) == [30]
        assert pass_days(10) == [30]
        assert pass_days(13) == [30, 7]
        assert pass_days(5.9) == [30, 7, 1]
        assert pass_days(0.2) == [30, 7, 1]


def test_the_number_is_locked_for_one_company_only(service: Service, account: Account) -> None:
    users.add_company(service.db, OTHER_NIP, "Inna")
    with service.db.transaction() as first:
        stuck(first, "A")
        with service.db.transaction() as second:
            stuck(second, "A", OTHER_NIP)
    assert told(service.account(OTHER_NIP, "test")) == [("session.stuck", "A")]


def test_purge_keeps_what_a_webhook_still_has_to_deliver(
    service: Service, account: Account, database: Any
) -> None:
    with service.db.transaction() as connection:
        stuck(connection, "A")
    webhooks.add(account, "https://erp.example/events")
    with service.db.transaction() as connection:
        stuck(connection, "B")
    database.execute("UPDATE events SET at = now() - interval '40 days'")
    assert journal.purge(service.db, 30) == 1
    assert told(account) == [("session.stuck", "B")]
    assert service.db.run(queries.where, **account.columns, number=1).last == 2
