"""An invoice is known by the hash of its file, also one that KSeF refused and never numbered."""

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote

import pytest

from app.db.pool import Database
from app.services.events.follow import follow_all
from app.services.operators import purge
from app.services.sessions import search
from tests.answers import assert_problem
from tests.service import Company

NIP = "5265877635"
REFUSED, SENT = 30, 1000


@pytest.fixture
def settings(settings: Any) -> Any:
    """What is sent can be listed at once; nothing that moves is waited for."""
    timing = replace(settings.timing, arrival=0.0, follow_overlap=0.0, follow_moving=0.0)
    return replace(settings, timing=timing)


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, environments=("test",))


def ask(company: Company, name: str, **query: str) -> Any:
    response = company.get("/invoices/test", query_string={"invoiceHash": name, **query})
    assert response.status_code == 200, response.json
    return response.json


def add_row(database: Any, number: str, name: str) -> None:
    database.execute(
        "INSERT INTO offline_invoices (company_nip, environment, invoice_number, invoice_hash)"
        f" VALUES ('{NIP}', 'test', '{number}', '{name}')"
    )


@pytest.mark.parametrize(
    ("status", "state"),
    [(200, "accepted"), (150, "processing"), (440, "duplicate"), (430, "rejected")],
)
def test_what_became_of_a_file(company: Company, control: Any, status: int, state: str) -> None:
    order = {"status": status, "outcome": status} if status == 150 else {"status": status}
    moving = {"state": "moving"} if status == 150 else {}
    session = control.seed_session("test", NIP, invoices=[order], **moving)
    company.get(f"/invoices/test/status/{session.reference_number}")
    name = session.invoices[0].invoice_hash
    control.clear_calls()

    in_hexadecimal = base64.b64decode(name).hex()
    for spelled in (name, in_hexadecimal, in_hexadecimal.upper()):
        body = ask(company, spelled)
        assert body["state"] == state
        [found] = body["answers"]
        assert found["invoiceHash"] == name
        assert found["sessionReferenceNumber"] == session.reference_number
    assert control.calls() == []


def test_a_plus_that_was_not_encoded_is_one(company: Company) -> None:
    name = "+" * 42 + "A="
    response = company.get(f"/invoices/test?invoiceHash={name}&sentAt=2026-09-15T10:00:00+02:00")
    assert response.status_code == 200
    assert response.json["state"] == "unknown"
    assert company.get(f"/invoices/test?invoiceHash={quote(name)}").status_code == 200


def test_without_being_followed_nothing_is_said_not_to_have_arrived(company: Company) -> None:
    body = ask(company, "ab" * 32, sentAt="2026-09-15T10:00:00Z")
    assert body == {
        "rows": [],
        "answers": [],
        "state": "unknown",
        "unknownBecauseOf": None,
        "knownSince": None,
        "knownUntil": None,
    }


def test_refused_invoices_of_a_batch_have_their_own_status(
    company: Company, control: Any, database: Any
) -> None:
    """No number, no reference: the ERP knows its files, and reads each one's own status."""
    orders = [
        {"status": 430, "invoiceNumber": None, "details": [f"field {i}"]} if i < REFUSED else {}
        for i in range(SENT)
    ]
    session = control.seed_session("test", NIP, kind="batch", invoices=orders)
    for i, invoice in enumerate(session.invoices):
        add_row(database, f"FV/{i}", invoice.invoice_hash)

    assert company.get(f"/invoices/test/status/{session.reference_number}").status_code == 200
    company.get(f"/invoices/test/status/{session.reference_number}/{session.ksef_numbers[-1]}/upo")

    rows = database.execute(
        "SET ROLE erp; SELECT invoice_number, session_reference_number, session_code, invoice_code,"
        " invoice_details ->> 0, ksef_number, invoice_reference_number, upo_signature,"
        " upo_archived_at IS NOT NULL FROM invoice_status"
        " ORDER BY substr(invoice_number, 4)::int"
    )
    assert len(rows) == SENT
    for i, (row, invoice) in enumerate(zip(rows, session.invoices, strict=True)):
        refused = i < REFUSED
        last = i == SENT - 1
        assert row == (
            f"FV/{i}",
            session.reference_number,
            200,
            430 if refused else 200,
            f"field {i}" if refused else None,
            invoice.ksef_number,
            invoice.reference_number,
            "valid" if last else None,
            last,
        )
    for i in (0, REFUSED - 1, REFUSED):
        body = ask(company, session.invoices[i].invoice_hash)
        assert body["state"] == ("rejected" if i < REFUSED else "accepted")
        [row] = body["rows"]
        assert row["sessionReferenceNumber"] == session.reference_number
        assert row["invoiceHash"] == session.invoices[i].invoice_hash


def test_of_a_file_that_is_twice_in_a_session_the_accepted_one_is_shown(
    company: Company, control: Any, database: Any
) -> None:
    name = base64.b64encode(bytes(32)).decode()
    orders = [{"status": code, "invoiceHash": name} for code in (440, 440, 200, 440)]
    session = control.seed_session("test", NIP, invoices=orders)
    add_row(database, "FV/1", name)
    company.get(f"/invoices/test/status/{session.reference_number}")
    assert database.execute("SELECT invoice_code, ksef_number FROM invoice_status") == [
        (200, session.ksef_numbers[0])
    ]
    assert ask(company, name)["state"] == "accepted"


def test_a_row_with_a_hash_that_comes_after_its_session_is_linked(
    company: Company, control: Any, database: Any
) -> None:
    """The look whether anything is unlinked finds what linking would write, and nothing else."""
    session = control.seed_session("test", NIP, invoices=[{"status": 430}, {}])
    other = control.seed_session("test", NIP, invoices=[{"status": 430}])
    path = f"/invoices/test/status/{session.reference_number}"
    company.get(path)
    company.get(path)
    for i, invoice in enumerate(session.invoices):
        add_row(database, f"FV/{i}", invoice.invoice_hash)
    add_row(database, "FV/other", other.invoices[0].invoice_hash)

    company.get(path)

    linked = "SELECT session_reference_number, xmin::text FROM offline_invoices ORDER BY id"
    once = database.execute(linked)
    assert [reference for reference, _ in once] == [session.reference_number] * 2 + [None]
    company.get(path)
    assert database.execute(linked) == once


def test_a_upo_of_another_file_than_ksef_listed_is_refused(
    company: Company, control: Any, database: Any
) -> None:
    session = control.seed_session("test", NIP, invoices=2)
    path = f"/invoices/test/status/{session.reference_number}"
    company.get(path)
    database.execute(
        "UPDATE kept_invoices SET more = jsonb_set(more, '{invoiceHash}', to_jsonb('x'::text))"
        f" WHERE ksef_number = '{session.ksef_numbers[0]}'"
    )
    for what in (f"{path}/{session.ksef_numbers[0]}/upo", f"{path}/upo"):
        response = company.get(what)
        assert_problem(response, 502, "upo_integrity")
        assert "another file" in response.json["detail"]
    assert database.execute("SELECT FROM upos") == []
    assert company.get(f"{path}/{session.ksef_numbers[1]}/upo").status_code == 200


# -- whether it arrived ---------------------------------------------------------------------

NEVER_SENT = "ab" * 32


def now() -> str:
    """Two seconds ago: KSeF tells its own time in whole seconds."""
    return (datetime.now(UTC) - timedelta(seconds=2)).isoformat()


def follow(company: Company, database: Any) -> None:
    """A round in which the lists are due, of an hour: the sandbox makes sessions of the past."""
    database.execute(
        "UPDATE followed SET list_at = now(), listed_until = listed_until - interval '1 hour'"
    )
    follow_all(company.service)


def state(company: Company, sent_at: str, name: str = NEVER_SENT) -> str:
    return str(ask(company, name, sentAt=sent_at)["state"])


def because_of(company: Company, sent_at: str) -> str | None:
    said: str | None = ask(company, NEVER_SENT, sentAt=sent_at)["unknownBecauseOf"]
    return said


def test_what_never_arrived_is_said_once_that_is_certain(
    company: Company, control: Any, database: Any
) -> None:
    before = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    sent_at = now()
    assert state(company, sent_at) == "unknown"
    follow(company, database)

    body = ask(company, NEVER_SENT, sentAt=sent_at)
    assert body["state"] == "not_arrived"
    assert datetime.fromisoformat(body["knownUntil"]) > datetime.fromisoformat(sent_at)
    assert ask(company, NEVER_SENT)["state"] == "unknown", "nobody says when it was sent"
    later = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    assert state(company, later) == "unknown", "sent after what is known"
    assert state(company, before) == "unknown", "sent before what is known"
    assert company.get(f"/invoices/demo?invoiceHash={NEVER_SENT}&sentAt={quote(sent_at)}").json[
        "state"
    ] == ("unknown")


def test_what_arrived_is_found_without_anybody_asking_for_its_session(
    company: Company, control: Any, database: Any
) -> None:
    """The sender died between KSeF's answer and its own commit."""
    sent_at = now()
    for kind in ("online", "batch"):
        session = control.seed_session("test", NIP, kind=kind)
        follow(company, database)
        assert state(company, sent_at, session.invoices[0].invoice_hash) == "accepted"


@pytest.mark.parametrize("seeded", ["moving", "open"])
def test_while_a_session_may_still_get_it_nothing_is_certain(
    company: Company, control: Any, database: Any, seeded: str
) -> None:
    session = control.seed_session("test", NIP, state=seeded, invoices=0)
    sent_at = now()
    follow(company, database)
    assert state(company, sent_at) == "unknown"
    assert because_of(company, sent_at) == session.reference_number
    control.change_session("test", session.reference_number, state="finished")
    follow(company, database)
    assert state(company, sent_at) == "not_arrived"


def test_what_cannot_be_read_leaves_it_uncertain(
    company: Company, control: Any, database: Any
) -> None:
    follow(company, database)
    session = control.seed_session("test", NIP)
    sent_at = now()
    name = session.invoices[0].invoice_hash
    control.fault("status", status=500, path="/sessions/", times=None)
    follow(company, database)
    assert state(company, sent_at, name) == "unknown"
    control.clear_faults()
    database.execute("UPDATE followed_sessions SET due_at = now()")
    follow(company, database)
    assert state(company, sent_at, name) == "accepted"


def test_what_was_purged_is_not_said_never_to_have_arrived(
    company: Company, control: Any, database: Any
) -> None:
    session = control.seed_session("test", NIP)
    sent_at = now()
    follow(company, database)
    assert state(company, sent_at, session.invoices[0].invoice_hash) == "accepted"
    purge.purge(company.service.db, 0)
    assert state(company, sent_at, session.invoices[0].invoice_hash) == "unknown"


def test_kept_invoices_without_their_hashes_leave_it_uncertain(
    company: Company, control: Any, database: Any
) -> None:
    """Version 0.1.0 did not keep them."""
    session = control.seed_session("test", NIP)
    sent_at = now()
    follow(company, database)
    assert state(company, sent_at) == "not_arrived"
    database.execute("UPDATE kept_invoices SET more = NULL")
    assert state(company, sent_at) == "unknown"
    assert because_of(company, sent_at) == session.reference_number


def test_what_was_read_and_is_not_kept_any_more_leaves_it_uncertain(
    company: Company, control: Any, database: Any
) -> None:
    """Version 0.1.0 purges without saying so; or some tables were restored without the others."""
    session = control.seed_session("test", NIP)
    sent_at = now()
    follow(company, database)
    name = session.invoices[0].invoice_hash
    database.execute(
        "DELETE FROM kept_invoices; DELETE FROM kept_sessions;"
        "UPDATE followed SET known_since = now() - interval '10 minutes'"
    )
    assert state(company, sent_at, name) == "unknown"
    assert because_of(company, sent_at) == session.reference_number
    # But not what a purge has deleted long before it was sent.
    database.execute("UPDATE followed_sessions SET final_at = now() - interval '1 hour'")
    assert state(company, sent_at) == "not_arrived"


def test_what_was_refused_and_sent_once_more_is_not_told_as_refused(
    company: Company, control: Any, database: Any
) -> None:
    session = control.seed_session("test", NIP, invoices=[{"status": 430}])
    name = session.invoices[0].invoice_hash
    follow(company, database)
    assert ask(company, name)["state"] == "rejected"
    later = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
    assert state(company, later, name) == "unknown"


@pytest.mark.parametrize(("kind", "told"), [("online", "not_arrived"), ("batch", "rejected")])
def test_a_batch_has_the_date_of_its_opening_and_takes_files_until_it_is_worked_on(
    company: Company, control: Any, database: Any, kind: str, told: str
) -> None:
    began = datetime.now(UTC) - timedelta(minutes=30)
    session = control.seed_session(
        "test", NIP, kind=kind, date_created=began.isoformat(), invoices=[{"status": 430}]
    )
    follow(company, database)
    name = session.invoices[0].invoice_hash

    def at(seconds: int) -> str:
        return state(company, (began + timedelta(seconds=seconds)).isoformat(), name)

    assert [at(-10), at(30), at(120)] == ["rejected", told, "not_arrived"]


def test_lists_that_do_not_show_everything_leave_it_uncertain(
    company: Company, control: Any, database: Any
) -> None:
    """With the right InvoiceWrite alone KSeF lists the sessions of this very credential only."""
    sent_at = now()
    session = control.seed_session("test", NIP)
    follow(company, database)
    assert state(company, sent_at) == "not_arrived"
    company.get(f"/invoices/test/status/{session.reference_number}")
    assert state(company, sent_at) == "not_arrived"
    database.execute("DELETE FROM followed_sessions")  # as if it had not been listed
    assert state(company, sent_at) == "unknown"
    assert because_of(company, sent_at) == session.reference_number


@pytest.mark.parametrize("is_listed", [False, True])
@pytest.mark.parametrize("named", ["session", "invoice"])
def test_what_the_erp_names_and_ksef_does_not_list_leaves_it_uncertain(
    company: Company, control: Any, database: Any, named: str, is_listed: bool
) -> None:
    """Nobody has asked for it: the ERP sends with another credential than ours."""
    sent_at = now()
    session = control.seed_session("test", NIP)
    one = session if named == "session" else session.invoices[0]
    database.execute(
        "INSERT INTO offline_invoices (company_nip, environment, invoice_number,"
        f" ksef_reference_number, created_at) VALUES ('{NIP}', 'test', 'FV/1',"
        f" '{one.reference_number}', '{sent_at}')"
    )
    if not is_listed:
        control.fault("set-field", field="sessions", value=[], path="/v2/sessions$", times=None)
    follow(company, database)
    # Also of the first day that is known of: the sandbox began the session five minutes ago.
    for since in ("known_since", "now() - interval '6 minutes'"):
        database.execute(f"UPDATE followed SET known_since = {since}")
        assert state(company, sent_at) == ("not_arrived" if is_listed else "unknown")
        assert because_of(company, sent_at) == (None if is_listed else one.reference_number)


def test_what_is_purged_meanwhile_is_not_said_never_to_have_arrived(
    company: Company, control: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The purge comes between the look at what is known and the look at the answers."""
    session = control.seed_session("test", NIP)
    sent_at = now()
    follow(company, database)
    name = session.invoices[0].invoice_hash
    begin = Database.transaction

    def purged_first(self: Database, opening: Any = None) -> Any:
        monkeypatch.setattr(Database, "transaction", begin)
        purge.purge(company.service.db, 0)
        return begin(self, opening)

    assert state(company, sent_at, name) == "accepted"
    monkeypatch.setattr(Database, "transaction", purged_first)
    assert state(company, sent_at, name) == "unknown"
    assert database.execute("SELECT FROM kept_sessions") == []


@pytest.mark.parametrize("sent_at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_at_the_end_of_the_calendar_is_only_unknown(
    company: Company,
    control: Any,
    database: Any,
    sent_at: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = control.seed_session("test", NIP, invoices=[{"status": 430}]).invoices[0]
    follow(company, database)
    timing = replace(company.service.timing, arrival=600.0)
    monkeypatch.setattr(company.service, "timing", timing)
    assert state(company, sent_at) == "unknown"
    assert state(company, sent_at, refused.invoice_hash) in ("rejected", "unknown")


def test_a_session_that_ksef_shows_no_more_leaves_it_uncertain(
    company: Company, control: Any, database: Any
) -> None:
    """KSeF listed it once: what is in it may have arrived, and KSeF may show it again."""
    session = control.seed_session("test", NIP)
    sent_at = now()
    name = session.invoices[0].invoice_hash
    gone = [
        control.fault("ksef-error", code=21173, path=f"/{session.reference_number}", times=None)
    ]
    follow(company, database)
    gone.append(
        control.fault("set-field", field="sessions", value=[], path="/v2/sessions$", times=None)
    )
    for _ in range(6):
        database.execute("UPDATE followed_sessions SET due_at = now() WHERE due_at IS NOT NULL")
        follow(company, database)
    assert control.calls()[-1].path.endswith("/sessions"), "it is not asked for any more"
    assert state(company, sent_at, name) == "unknown"
    # Nothing is known of the time before the lists lacked it; were it, then not of this session.
    assert because_of(company, sent_at) is None
    database.execute("UPDATE followed SET known_since = known_since - interval '1 day'")
    assert state(company, sent_at, name) == "unknown"
    assert because_of(company, sent_at) == session.reference_number
    known_until = ask(company, name, sentAt=sent_at)["knownUntil"]
    assert datetime.fromisoformat(known_until) > datetime.fromisoformat(sent_at)

    control.clear_faults()
    follow(company, database)
    assert state(company, sent_at, name) == "accepted"


def test_of_a_file_that_was_sent_a_hundred_times_the_accepted_one_counts(
    company: Company, control: Any
) -> None:
    first = control.seed_session("test", NIP)
    name = first.invoices[0].invoice_hash
    again = control.seed_session("test", NIP, invoices=[{"status": 440, "invoiceHash": name}] * 101)
    for session in (first, again):
        company.get(f"/invoices/test/status/{session.reference_number}")
    assert ask(company, name)["state"] == "accepted"


@pytest.mark.parametrize(("begun", "said"), [(30, "unknown"), (90, "not_arrived")])
def test_sessions_that_were_begun_long_after_it_was_sent_are_not_waited_for(
    company: Company, control: Any, database: Any, begun: int, said: str
) -> None:
    """Where one is always open, or many always move, nothing would else ever be said."""
    sent_at = datetime.now(UTC) - timedelta(hours=2)
    created = (sent_at + timedelta(minutes=begun)).isoformat()
    for seeded in ("open", "moving"):
        control.seed_session("test", NIP, state=seeded, invoices=0, date_created=created)
    follow(company, database)
    assert state(company, sent_at.isoformat()) == said


def test_what_was_refused_before_and_did_not_arrive_again_is_said(
    company: Company, control: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KSeF refuses files at times that it would take later (550): unknown for ever is no answer."""
    name = control.seed_session("test", NIP, invoices=[{"status": 550}]).invoices[0].invoice_hash
    sent_at = now()
    follow(company, database)
    assert state(company, sent_at, name) == "not_arrived"
    monkeypatch.setattr(search, "_settled", Mock(side_effect=[(True, None), (False, None)]))
    assert state(company, sent_at, name) == "unknown", "something was purged meanwhile"


@pytest.mark.parametrize("counts", [None, 0])
def test_a_session_that_ended_well_without_any_invoice_leaves_it_uncertain(
    company: Company, control: Any, database: Any, counts: int | None
) -> None:
    """KSeF leaves counts out at times; with an empty list they would fit each other."""
    session = control.seed_session("test", NIP)
    sent_at = now()
    name = session.invoices[0].invoice_hash
    told = {
        "status": {"code": 200, "description": "Sesja interaktywna przetworzona pomyślnie"},
        "dateCreated": session.date_created,
        "dateUpdated": session.date_created,
        "invoiceCount": counts,
        "successfulInvoiceCount": counts,
    }
    control.fault("status", status=200, body=told, path=f"/{session.reference_number}$", times=None)
    control.fault("set-field", field="invoices", value=[], path="/invoices$", times=None)
    follow(company, database)
    assert state(company, sent_at, name) == "unknown"
    control.clear_faults()
    database.execute(
        "UPDATE followed_sessions SET due_at = now();"
        "UPDATE kept_sessions SET asked_at = now() - interval '1 day',"
        " listed_at = now() - interval '1 day'"
    )
    follow(company, database)
    assert state(company, sent_at, name) == "accepted"


def test_a_session_that_ended_with_an_unknown_error_leaves_it_uncertain_for_good(
    company: Company, control: Any, database: Any
) -> None:
    """Such sessions have been seen to end well. After a day nobody asks any more."""
    session = control.seed_session("test", NIP, kind="batch", state="failed", code=500)
    sent_at = now()
    follow(company, database)
    assert state(company, sent_at) == "unknown"
    database.execute(
        "UPDATE kept_sessions SET changed_at = now() - interval '25 hours';"
        "UPDATE followed_sessions SET due_at = now()"
    )
    follow(company, database)
    answer = company.get(f"/invoices/test/status/{session.reference_number}").json
    assert answer["final"] is True
    assert state(company, sent_at) == "unknown"


@pytest.mark.parametrize("code", [405, 415, 430, 435, 440])
def test_a_batch_that_was_refused_as_a_whole_brought_no_file(
    company: Company, control: Any, database: Any, code: int
) -> None:
    control.seed_session("test", NIP, kind="batch", state="failed", code=code)
    sent_at = now()
    follow(company, database)
    assert state(company, sent_at) == "not_arrived"


@pytest.mark.parametrize("hours", [-12, 0, 2, 14])
def test_the_offset_of_the_time_of_sending_changes_nothing(
    company: Company, control: Any, database: Any, hours: int
) -> None:
    follow(company, database)
    zone = timezone(timedelta(hours=hours))
    for seconds, said in ((2, "not_arrived"), (-2, "unknown")):
        moment = datetime.now(zone) - timedelta(seconds=seconds)
        assert state(company, moment.isoformat()) == said
