"""Documents go by age, a few at a time; links stay, and KSeF is asked again."""

import threading
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg2
import pytest

from app import create_app
from app.context import EXTENSION
from app.services.operators import purge
from app.services.operators.purge import Deleted
from app.services.sessions import store
from app.services.upo import fetch as upo
from tests.rows import add_offline, add_synced, offline_sessions, stored, synced_sessions
from tests.services.conftest import NIP, STATUS, Asking

DAY = 86400
COUNTS = (
    "SELECT (SELECT count(*) FROM kept_sessions), (SELECT count(*) FROM kept_invoices),"
    " (SELECT count(*) FROM upos)"
)


@pytest.fixture
def session(asking: Asking) -> Any:
    """A finished session that was asked for 31 days ago, with a UPO, and the company's rows."""
    session = asking.seed(invoices=3)
    add_synced(asking.database, asking.account, session.ksef_numbers)
    add_offline(asking.database, asking.account, [session.reference_number])
    ask(asking, session)
    asking.age(31 * DAY)
    asking.database.execute("UPDATE upos SET fetched_at = fetched_at - interval '31 days'")
    asking.control.clear_calls()
    return session


def ask(asking: Asking, session: Any) -> bytes:
    """Both questions; the UPO's XML."""
    assert asking.check(session).final
    number = session.ksef_numbers[0]
    return upo.fetch_upo(asking.account, session.reference_number, number, "xml").content


def test_links_stay_and_ksef_is_asked_again(asking: Asking, session: Any) -> None:
    rows = stored(asking.database)
    assert synced_sessions(asking.database, asking.account) == dict.fromkeys(
        session.ksef_numbers, session.reference_number
    )
    before = ask(asking, session)
    assert asking.counts() == {}

    assert purge.purge(asking.service.db, 30) == Deleted(answers=1, upos=1)

    assert asking.database.execute(COUNTS) == [(0, 0, 0)]
    assert stored(asking.database) == rows
    assert ask(asking, session) == before
    assert asking.counts()[STATUS] == 1
    assert asking.database.execute(COUNTS) == [(1, 3, 1)]
    assert stored(asking.database) == rows, "what was linked is not written again"
    assert offline_sessions(asking.database, asking.account) == [
        (session.reference_number, session.reference_number)
    ]


def test_what_is_younger_stays(asking: Asking, session: Any) -> None:
    young = asking.seed(invoices=2)
    ask(asking, young)
    assert purge.purge(asking.service.db, 32) == Deleted(0, 0)
    assert purge.purge(asking.service.db, 30) == Deleted(1, 1)
    assert asking.database.execute("SELECT reference_number FROM kept_sessions") == [
        (young.reference_number,)
    ]
    asking.control.clear_calls()
    ask(asking, young)
    assert asking.counts() == {}


def test_many_companies_in_small_batches(
    asking: Asking, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every one is looked at, whatever the batch; the old ones go."""
    asking.database.execute(
        "INSERT INTO companies (nip, name) VALUES ('7812019453', 'Inna');"
        "INSERT INTO kept_sessions SELECT nip, env::ksef_environment, 'R' || n, '{}', NULL, true,"
        " age, age, age, age FROM unnest(ARRAY['5265877635', '7812019453']) AS nip,"
        " unnest(ARRAY['test', 'prod']) AS env, generate_series(1, 25) AS n,"
        " LATERAL (SELECT now() - n % 2 * interval '40 days') AS ages (age);"
        "INSERT INTO upos (company_nip, environment, session_reference_number, ksef_number,"
        " content, sha256, fetched_at)"
        " SELECT company_nip, environment, reference_number, 'K', 'x', 'x', checked_at"
        " FROM kept_sessions WHERE reference_number LIKE 'R%'"
    )
    monkeypatch.setattr(purge, "_UPOS", 7)
    assert purge.purge(asking.service.db, 30) == Deleted(4 * 13 + 1, 4 * 13 + 1)
    assert asking.database.execute(COUNTS) == [(4 * 12, 0, 4 * 12)]


def test_answer_that_is_being_written_is_left(asking: Asking, session: Any) -> None:
    with closing(psycopg2.connect(asking.database.owner_dsn)) as writer, writer.cursor() as cursor:
        cursor.execute("UPDATE kept_sessions SET asked_at = now()")
        assert purge.purge(asking.service.db, 30) == Deleted(0, 1)
    assert asking.database.execute(COUNTS) == [(1, 3, 0)]


def test_answer_purged_while_ksef_is_asked_is_kept_whole(asking: Asking) -> None:
    """What the new answer has in common with the purged one is stored with it."""
    session = asking.seed(state="moving", invoices=[{}, {"status": 150}])
    old = asking.check(session)
    asking.age(31 * DAY)
    asking.control.change_session("test", session.reference_number, state="finished")
    asking.control.fault("delay", path=r"/sessions/[^/]+$", seconds=0.7)
    asked = threading.Thread(target=asking.check, args=(session,))
    asked.start()
    while asking.control.waiting_faults():
        assert asked.is_alive()
    assert purge.purge(asking.service.db, 30).answers == 1
    asked.join(10)
    kept = store.load(asking.account, session.reference_number)
    assert kept is not None
    assert len(kept.invoices) == len(old.invoices) == 2


def test_expired_download_links_go_and_others_stay(asking: Asking, session: Any) -> None:
    other = asking.seed(invoices=2)
    asking.check(other)
    query = "SELECT reference_number FROM kept_sessions WHERE links IS NOT NULL"
    assert len(asking.database.execute(query)) == 2
    assert purge.forget_links(asking.service.db) == 1
    assert asking.database.execute(query) == [(other.reference_number,)]
    assert purge.forget_links(asking.service.db) == 0


def test_purge_is_audited_and_told(app: Any, settings: Any, asking: Asking, session: Any) -> None:
    keeps = app.test_cli_runner().invoke(args=["purge"])
    assert keeps.exit_code == 0
    assert keeps.output == (
        "expired download links of 1 kept answers deleted\n"
        "DOCUMENT_RETENTION_DAYS is not set: documents and events are kept\n"
    )
    assert asking.database.execute(COUNTS) == [(1, 3, 1)]

    purging = create_app(replace(settings, document_retention_days=30))
    result = purging.test_cli_runner().invoke(args=["purge"])
    purging.extensions[EXTENSION].db.close()
    assert result.output == (
        "expired download links of 0 kept answers deleted\n"
        "1 kept answers and 1 archived UPOs deleted\n"
        "0 events deleted\n"
    )
    assert asking.database.execute(
        "SELECT who, detail FROM audit WHERE what = 'documents_purged'"
    ) == [("operator", "older than 30 days")]


def test_of_one_company_only(asking: Asking, session: Any, make_company: Any) -> None:
    other = make_company("7812019453", environments=("test",))
    theirs = asking.control.seed_session("test", other.nip)
    assert other.get(f"/invoices/test/status/{theirs.reference_number}").status_code == 200
    assert purge.delete(asking.service.db, company_nip=NIP) == Deleted(1, 1)
    assert asking.database.execute("SELECT company_nip FROM kept_sessions") == [(other.nip,)]
