"""Who did what, when: each act leaves its row, with the act or not at all."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from psycopg2 import errors as sqlstates

from app import create_app, errors
from app.context import EXTENSION
from app.ksef.certificates import Certificate
from app.service import Service
from app.services import outages
from app.services.login import credentials
from app.services.operators import audit, keys, users
from app.services.operators.audit import What
from app.services.operators.throttle import ALLOWED
from app.services.upo import fetch as upo
from tests.certificates import make
from tests.service import PASSWORD, Company, basic

NIP = "5265877635"
EMAIL = f"erp@{NIP}.example"
REQUEST = {"X-Request-ID": "audited-request"}
COLUMNS = "who, what, company_nip, environment::text, detail, request_id, address"


@pytest.fixture
def company(make_company: Callable[..., Company], database: Any) -> Company:
    company = make_company(NIP, environments=("test",))
    database.execute("DELETE FROM audit")
    return company


@contextmanager
def taking_nothing(database: Any) -> Iterator[None]:
    """The service has no right to add to the audit."""
    columns = COLUMNS.replace("::text", "")
    database.execute(f"REVOKE INSERT ({columns}) ON audit FROM ksef_proxy")
    try:
        yield
    finally:
        database.execute(f"GRANT INSERT ({columns}) ON audit TO ksef_proxy")


@pytest.fixture
def read_only(database: Any, service: Service) -> Iterator[None]:
    """PostgreSQL takes nothing from new connections."""
    change = f"ALTER DATABASE {database.name}"
    service.db.close()
    database.server.execute(f"{change} SET default_transaction_read_only = on")
    yield
    database.server.execute(f"{change} RESET default_transaction_read_only")
    service.db.close()


def rows(database: Any) -> list[Any]:
    return database.execute(f"SELECT {COLUMNS} FROM audit ORDER BY at")


def by_request(what: What, environment: str | None = "test", detail: str | None = None) -> Any:
    """The row of an act in a request from the loopback."""
    return (EMAIL, what, NIP, environment, detail, "audited-request", "127.0.0.1")


def by_operator(what: What, environment: str | None = None, detail: str | None = None) -> Any:
    return ("operator", what, NIP, environment, detail, None, None)


# -- KSeF -----------------------------------------------------------------------------------


def test_login_and_logout_by_a_user(company: Company, database: Any) -> None:
    for method in ("DELETE", "POST", "POST"):
        company.request(method, "/auth/test", headers=REQUEST)
    assert rows(database) == [  # the second login found a session, and used no credential
        by_request(What.KSEF_LOGOUT),
        by_request(What.KSEF_LOGIN, detail="token"),
    ]


def test_silent_login_in_somebody_s_request(company: Company, control: Any, database: Any) -> None:
    session = control.seed_session("test", NIP)
    control.expire_bearers("test", nip=NIP)
    path = f"/invoices/test/status/{session.reference_number}"
    assert company.get(path, headers=REQUEST).status_code == 200
    assert rows(database) == [by_request(What.KSEF_SILENT_LOGIN, detail="token")]


def test_refresh_is_no_use_of_the_credential(company: Company, control: Any, database: Any) -> None:
    session = control.seed_session("test", NIP)
    control.expire_bearers("test", kind="access", nip=NIP)
    assert company.get(f"/invoices/test/status/{session.reference_number}").status_code == 200
    assert rows(database) == []


def test_refused_credential(company: Company, control: Any, database: Any) -> None:
    company.request("DELETE", "/auth/test")
    control.set_token_outcome("test", 450, nip=NIP)
    assert company.request("POST", "/auth/test", headers=REQUEST).status_code == 502
    assert rows(database)[1:] == [by_request(What.KSEF_LOGIN_REFUSED, detail="450")]


def test_credentials_by_command(company: Company, database: Any, service: Service) -> None:
    made = make("ec")
    credentials.store_token(company.account("demo"), "a-token-of-ksef")
    certificate = Certificate(made.certificate, made.key)
    credentials.store_certificate(company.account("demo"), certificate)
    keys.rotate(service.db, service.vault, lambda *_: None)
    assert rows(database) == [
        by_operator(What.CREDENTIAL_STORED, "demo", "token"),
        by_operator(What.CREDENTIAL_STORED, "demo", "certificate"),
        ("operator", What.KEYS_ROTATED, None, None, "0 secrets", None, None),
    ]


# -- simulations ----------------------------------------------------------------------------


def test_simulation_by_an_admin(company: Company, database: Any) -> None:
    path = "/outages/demo/simulation"
    company.request("PUT", path, json={"message": "drill"}, headers=REQUEST)
    for _ in range(2):  # nothing to end the second time
        company.request("DELETE", path, headers=REQUEST)
    assert rows(database) == [
        by_request(What.SIMULATION_STARTED, "demo", "drill"),
        by_request(What.SIMULATION_ENDED, "demo"),
    ]


def test_simulation_for_all_by_command(company: Company, database: Any, service: Service) -> None:
    outages.simulate(service.db, "test", company_nip=None, message="all", ends_at=None)
    outages.clear_all(service.db, "test")
    outages.clear_all(service.db, "test")
    assert rows(database) == [
        ("operator", What.SIMULATION_STARTED, None, "test", "all", None, None),
        ("operator", What.SIMULATION_ENDED, None, "test", "1", None, None),
    ]


# -- UPOs -----------------------------------------------------------------------------------


@pytest.fixture
def receipt(company: Company, control: Any) -> tuple[str, str]:
    """A session and a KSeF number in it."""
    session = control.seed_session("test", NIP, kind="batch")
    return session.reference_number, session.ksef_numbers[0]


def test_download_from_ksef_and_from_the_archive(
    company: Company, receipt: tuple[str, str], database: Any
) -> None:
    reference, number = receipt
    path = f"/invoices/test/status/{reference}/{number}/upo?docType="
    for doc_type in ("xml", "pdf"):
        answer = company.get(
            path + doc_type, headers=REQUEST, environ_overrides={"REMOTE_ADDR": "203.0.113.7"}
        )
        assert answer.status_code == 200
    assert rows(database) == [
        (EMAIL, "upo_downloaded", NIP, "test", detail, "audited-request", "203.0.113.7")
        for detail in (f"{reference} {number} xml", f"{reference} {number} pdf")
    ]


def test_collective_upo(company: Company, receipt: tuple[str, str], database: Any) -> None:
    reference, _ = receipt
    assert company.get(f"/invoices/test/status/{reference}/upo", headers=REQUEST).status_code == 200
    assert rows(database) == [by_request(What.UPO_DOWNLOADED, detail=f"{reference} xml")]


def test_no_document_no_row(company: Company, receipt: tuple[str, str], database: Any) -> None:
    reference, _ = receipt
    number = "5265877635-20250826-0100001AF629-AF"
    path = f"/invoices/test/status/{reference}/{number}/upo"
    assert company.get(path).status_code == 404
    company.request("PUT", "/outages/test/simulation", json={"message": "drill"})
    database.execute("DELETE FROM audit")
    assert company.get(f"/invoices/test/status/{reference}/{receipt[1]}/upo").status_code == 409
    assert rows(database) == []


def test_archived_one_is_handed_out_where_nothing_can_be_written(
    capsys: Any, company: Company, receipt: tuple[str, str], request: Any, database: Any
) -> None:
    """Row 27."""
    reference, number = receipt
    path = f"/invoices/test/status/{reference}/{number}/upo"
    first = company.get(path)
    database.execute("DELETE FROM audit")
    request.getfixturevalue("read_only")
    assert company.get(path).json == first.json
    assert "could not be audited" in capsys.readouterr().err
    assert rows(database) == []


def test_archived_one_is_handed_out_where_the_audit_alone_takes_nothing(
    company: Company, receipt: tuple[str, str], database: Any
) -> None:
    reference, number = receipt
    path = f"/invoices/test/status/{reference}/{number}/upo"
    first = company.get(path)
    with taking_nothing(database):
        assert company.get(path).json == first.json


def test_archived_one_is_handed_out_while_somebody_works_on_the_audit(
    company: Company, receipt: tuple[str, str], database: Any
) -> None:
    reference, number = receipt
    path = f"/invoices/test/status/{reference}/{number}/upo"
    first = company.get(path)
    with closing(psycopg2.connect(database.owner_dsn)) as owner, owner.cursor() as cursor:
        cursor.execute("LOCK TABLE audit")
        assert company.get(path).json == first.json


def test_archived_one_costs_no_statement_more(
    company: Company, receipt: tuple[str, str], database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is written by the statement that reads the document."""
    reference, number = receipt
    upo.fetch_upo(company.account(), reference, number, "xml")
    sent: list[str] = []
    original = psycopg2.extras.NamedTupleCursor.execute

    def execute(cursor: Any, statement: Any, values: Any = None) -> Any:
        sent.append(str(statement))
        return original(cursor, statement, values)

    monkeypatch.setattr(psycopg2.extras.NamedTupleCursor, "execute", execute)
    upo.fetch_upo(company.account(), reference, number, "xml")
    assert len(sent) == 1
    [[audited]] = database.execute("SELECT count(*) FROM audit WHERE what = 'upo_downloaded'")
    assert audited == 2


# -- users and companies --------------------------------------------------------------------


def test_users_and_companies_by_command(database: Any, service: Service) -> None:
    users.add_company(service.db, NIP, "Firma")
    users.add_user(
        service.db,
        service.passwords,
        email="Anna@firma.example",
        nip=NIP,
        role="admin",
        password=None,
    )
    users.disable_user(service.db, "anna@firma.example")
    assert rows(database) == [
        by_operator(What.COMPANY_ADDED),
        by_operator(What.USER_ADDED, detail="anna@firma.example admin"),
        by_operator(What.USER_DISABLED, detail="anna@firma.example"),
    ]


def test_what_is_refused_is_not_written_down(
    company: Company, database: Any, service: Service
) -> None:
    for refused in (
        lambda: users.add_company(service.db, NIP, "Firma"),
        lambda: users.add_user(
            service.db, service.passwords, email=EMAIL, nip=NIP, role="admin", password=None
        ),
        lambda: users.disable_user(service.db, "nobody@firma.example"),
    ):
        with pytest.raises(errors.OperatorError):
            refused()
    assert rows(database) == []


def test_act_is_undone_where_its_row_cannot_be_written(company: Company, database: Any) -> None:
    with taking_nothing(database):
        answer = company.request("PUT", "/outages/test/simulation", json={"message": "drill"})
        assert (answer.status_code, answer.json["code"]) == (503, "unavailable")
    assert database.execute("SELECT count(*) FROM outage_simulations") == [(0,)]


def guess(company: Company, email: str, times: int) -> None:
    for _ in range(times):
        headers = {**basic(email, "a wrong password"), **REQUEST}
        assert company.client.get("/auth/test", headers=headers).status_code == 401


def test_known_user_that_is_put_off_once(company: Company, database: Any) -> None:
    guess(company, EMAIL.upper(), ALLOWED - 1)
    assert rows(database) == []
    guess(company, EMAIL.upper(), 5)
    assert rows(database) == [by_request(What.USER_PUT_OFF, None)]


def test_strangers_cannot_fill_the_table(company: Company, database: Any) -> None:
    guess(company, "my secret password", ALLOWED + 1)
    assert rows(database) == []


def test_request_leaves_nobody_behind(company: Company, database: Any, service: Service) -> None:
    assert company.get("/auth/test").status_code == 200
    users.disable_user(service.db, EMAIL)
    assert rows(database) == [by_operator(What.USER_DISABLED, detail=EMAIL)]


# -- the table ------------------------------------------------------------------------------


def run(dsn: str, statement: str) -> None:
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET who = 'x'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "INSERT INTO audit (at, who, what) VALUES ('2020-01-01', 'x', 'ksef_login')",
    ],
)
def test_service_can_take_nothing_back_and_choose_no_time(database: Any, statement: str) -> None:
    with pytest.raises(sqlstates.InsufficientPrivilege):
        run(database.service_dsn, statement)


def test_erp_s_role_sees_nothing_of_it(database: Any) -> None:
    with pytest.raises(sqlstates.InsufficientPrivilege):
        run(database.erp_dsn, "SELECT FROM audit")


def test_list_is_the_newest_first_and_can_be_narrowed(database: Any, service: Service) -> None:
    database.execute(
        "INSERT INTO audit (at, who, what, company_nip) VALUES"
        f" ('2026-01-01 00:00Z', 'a', 'ksef_login', '{NIP}'),"
        f" ('2026-01-02 00:00Z', 'b', 'ksef_logout', '{NIP}'),"
        " ('2026-01-03 00:00Z', 'c', 'ksef_login', '7812019453')"
    )
    anything: dict[str, Any] = {"nip": None, "what": None, "since": None, "most": 100}
    since = datetime(2026, 1, 2, tzinfo=UTC)

    def found(**changes: Any) -> str:
        return "".join(row.who for row in audit.newest(service.db, **anything | changes))

    assert found() == "cba"
    assert found(nip=NIP) == "ba"
    assert found(what="ksef_login") == "ca"
    assert found(since=since) == "cb"
    assert found(most=1) == "c"


def test_commands_list_and_purge(app: Any, database: Any, service: Service) -> None:
    users.add_company(service.db, NIP, "Firma")
    database.execute(
        "INSERT INTO audit (at, who, what) SELECT now() - interval '31 days', 'old', 'ksef_login'"
        " FROM generate_series(1, 1500)"
    )
    runner = app.test_cli_runner()
    narrowed = ["audit", "list", "--nip", NIP, "--what", "company_added", "--since", "2026-01-01"]
    listed = runner.invoke(args=narrowed)
    assert listed.exit_code == 0, listed.output
    header, line = listed.stdout.splitlines()
    assert header.split()[:3] == ["at", "who", "what"]
    assert line.split()[1:] == ["operator", "company_added", NIP]

    refused = runner.invoke(args=["audit", "purge", "--days", "30"])
    assert refused.exit_code == 1
    assert "Only the owner" in refused.output
    assert len(rows(database)) == 1501


def test_listed_message_cannot_steer_the_terminal(app: Any, company: Company) -> None:
    message = "drill\x1b[2J\nforged line"
    company.request("PUT", "/outages/test/simulation", json={"message": message})
    listed = app.test_cli_runner().invoke(args=["audit", "list"])
    assert "drill?[2J?forged line" in listed.stdout
    assert len(listed.stdout.splitlines()) == 2


def test_owner_purges_in_batches(app: Any, settings: Any, database: Any, service: Service) -> None:
    database.execute(
        "INSERT INTO audit (at, who, what) SELECT now() - interval '31 days', 'old', 'ksef_login'"
        " FROM generate_series(1, 1500); INSERT INTO audit (who, what) VALUES ('new', 'ksef_login')"
    )
    owners = create_app(replace(settings, database_url=database.owner_dsn))
    result = owners.test_cli_runner().invoke(args=["audit", "purge", "--days", "30"])
    owners.extensions[EXTENSION].db.close()
    assert result.output == "1500 rows deleted\n"
    assert [row[0] for row in rows(database)] == ["new"]


def test_password_is_part_of_no_row(company: Company, database: Any) -> None:
    company.request("POST", "/auth/test")
    company.request("DELETE", "/auth/test")
    assert PASSWORD not in str(rows(database))
