"""`check` names what is wrong: each mistake is planted in the real thing, one at a time.

The proxy in front: tests/journeys/test_check_front.py.
"""

import base64
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from wsgiref.handlers import format_date_time

import certifi
import click
import psycopg2
import pytest
from flask import Flask
from psycopg2.extensions import make_dsn

from app import create_app
from app.cli.check import Checks
from app.context import EXTENSION
from app.db import rights
from app.db.migrate import migrate
from app.ksef import certificates
from app.services.login import credentials
from app.settings import DEFAULT_KSEF_URLS, ENVIRONMENTS, Settings, variables
from sandbox import postgres
from tests.certificates import make
from tests.conftest import PROJECT, DatabaseServer
from tests.faults.test_tls_and_proxy import Ca, Open, copy
from tests.faults.test_tls_and_proxy import ca as ca
from tests.faults.test_tls_and_proxy import door as door
from tests.service import Company
from tests.test_settings import KEY

NIP = "5265877635"
PASSWORD = "hunter2-and-more"


@dataclass(frozen=True)
class Told:
    """What `check` printed: state and sentence by name."""

    code: int
    lines: dict[str, tuple[str, str]]

    def failed(self, name: str, *words: str) -> None:
        """That check failed, in these words, and so did the command."""
        state, text = self.lines[name]
        assert state == "failed", text
        for word in words:
            assert word in text
        assert self.code == 1

    @property
    def states(self) -> set[str]:
        return {state for state, _ in self.lines.values()}


def told(code: int, output: str, errors: str = "") -> Told:
    assert errors == ""
    assert "Traceback" not in output
    assert "unexpected" not in output
    assert PASSWORD not in output
    lines = [(line[:9].strip(), line[11:32].strip(), line[34:]) for line in output.splitlines()]
    assert all(name and text for _, name, text in lines)
    return Told(code, {name: (state, text) for state, name, text in lines})


Run = Callable[..., Told]


@pytest.fixture
def check(settings: Settings) -> Run:
    """Runs `check`, for the environment test, with settings that are changed."""

    def run(*arguments: str, environments: Any = ("test",), **changes: Any) -> Told:
        app = create_app(replace(settings, **changes))
        chosen = [word for name in environments for word in ("--environment", name)]
        try:
            result = app.test_cli_runner().invoke(args=["check", *chosen, *arguments])
        finally:
            app.extensions[EXTENSION].db.close()
        return told(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def latarnia(sandbox: Any) -> dict[str, str]:
    return {name: f"{sandbox.url}/latarnia/{name}" for name in ENVIRONMENTS}


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_all_is_right(check: Run, company: Company, latarnia: dict[str, str]) -> None:
    found = check(environments=ENVIRONMENTS, latarnia_urls=latarnia)
    assert (found.code, found.states) == (0, {"ok"}), found
    assert {f"login {NIP} {name}" for name in ENVIRONMENTS} < set(found.lines)
    assert {f"ksef {name}" for name in ENVIRONMENTS} < set(found.lines)
    assert {f"latarnia {name}" for name in ENVIRONMENTS} < set(found.lines)


def test_it_leaves_the_companies_logged_in_as_they_were(
    check: Run, company: Company, database: Any, control: Any
) -> None:
    before = database.execute("SELECT access_token, refresh_token FROM ksef_sessions ORDER BY 1")
    assert check().code == 0
    assert "DELETE /{environment}/v2/auth/sessions/current" in control.call_counts("test")
    after = database.execute("SELECT access_token, refresh_token FROM ksef_sessions ORDER BY 1")
    assert after == before


def test_logins_may_be_left_out(check: Run, company: Company, control: Any) -> None:
    found = check("--no-login")
    assert found.code == 0
    assert not any(name.startswith(("login", "credentials")) for name in found.lines)
    assert set(control.call_counts()) == {"GET /{environment}/v2/security/public-key-certificates"}


# -- the settings ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("DATABASE_URL", "", "is missing"),
        ("DATABASE_URL", f"postgresql://x:{PASSWORD}@[", "is not a postgresql:// URL"),
        ("SECRET_KEYS", PASSWORD, "holds a key that is not Base64"),
        ("SECRET_KEYS", base64.b64encode(b"x" * 16).decode(), "not 32 bytes long"),
        ("PORT", "99999", "is not a port: 1 to 65535"),
        ("KSEF_URL_PROD", "http://ksef.example/v2", "must be https"),
        ("LATARNIA_URL_PROD", "http://latarnia.example", "must be https"),
        ("KSEF_CA_BUNDLE", "/nowhere.pem", "is not a readable file of certificates (PEM)"),
        ("KSEF_PROXY_URL", f"socks://me:{PASSWORD}@proxy", "is not an http(s) URL"),
        ("RESPONSE_TIMEZONE", "Europe/Warszawa", "is not a known time zone"),
    ],
)
def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str
) -> None:
    for variable in variables():
        monkeypatch.delenv(variable.name, raising=False)
    for known, text in {"DATABASE_URL": "postgresql:///x", "SECRET_KEYS": KEY, name: value}.items():
        monkeypatch.setenv(known, text)
    with click.Context(click.Command("check")):  # else the application would not start
        app = create_app()
    result = app.test_cli_runner().invoke(args=["check"])
    found = told(result.exit_code, result.stdout, result.stderr)
    found.failed("settings", name, problem)
    assert found.lines["all else"] == ("not tried", "needs the settings")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("KSEF_QUOTA_SHERE", "KSEF_QUOTA_SHARE"), ("LOGLEVEL", "LOG_LEVEL"), ("web_threads", "WEB_")],
)
def test_a_misspelt_setting_is_warned_of(
    check: Run, monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    # One of ours that is nearly another one is right as it is.
    monkeypatch.setenv("LATARNIA_URL_PROD", "http://127.0.0.1")
    monkeypatch.delenv("LATARNIA_URL_DEMO", raising=False)
    assert check().lines["settings"] == ("ok", "complete")
    monkeypatch.setenv(name, PASSWORD)
    found = check()
    state, text = found.lines["settings"]
    assert (found.code, state) == (0, "warning")
    assert text.startswith(f"complete, but {name} is none of them: is {meant}")
    monkeypatch.setenv(name.upper() if meant == "WEB_" else meant, "x")  # it is another program's
    assert check().lines["settings"] == ("ok", "complete")


def test_all_wrong_settings_are_named_by_a_process_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "check"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "PORT": "x", "SECRET_KEYS": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = told(done.returncode, done.stdout, done.stderr)
    found.failed("settings", "DATABASE_URL is missing", "SECRET_KEYS holds", "PORT is not")


# -- the database ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("postgres") / "of-its-own"
    yield folder
    shutil.rmtree((folder / "moved-to").resolve(), ignore_errors=True)  # for root: elsewhere


@pytest.fixture
def server(folder: Path) -> Iterator[postgres.EmbeddedPostgres]:
    """A PostgreSQL that asks the role `careful` for its password."""
    with postgres.start(folder, durable=False) as running:
        admin = DatabaseServer(running.dsn())
        rules = Path(admin.execute("SHOW hba_file")[0][0])
        if "careful" not in rules.read_text():
            rules.write_text(f"local all careful scram-sha-256\n{rules.read_text()}")
            admin.execute(f"CREATE ROLE careful LOGIN PASSWORD '{PASSWORD}'")
            admin.execute("SELECT pg_reload_conf()")
            time.sleep(0.2)
        yield running


def careful(server: postgres.EmbeddedPostgres, password: str) -> str:
    return make_dsn(server.dsn(), user="careful", password=password)


def test_wrong_password(check: Run, server: postgres.EmbeddedPostgres) -> None:
    with closing(psycopg2.connect(careful(server, PASSWORD))):
        pass
    found = check(database_url=careful(server, f"{PASSWORD}x"))
    found.failed("database", 'password authentication failed for user "careful"')
    assert found.lines["schema"] == ("not tried", "needs: database")
    for name in ("rights", "keys", "certificates"):
        assert found.lines[name] == ("not tried", "needs: schema")
    assert found.lines["ksef test"][0] == "ok"


def test_no_such_database(check: Run, server: postgres.EmbeddedPostgres) -> None:
    found = check(database_url=server.dsn("nothing"))
    found.failed("database", 'database "nothing" does not exist')


def test_database_is_stopped(check: Run, server: postgres.EmbeddedPostgres) -> None:
    server.stop()
    check(database_url=server.dsn()).failed("database", "Is the server running")


def test_no_such_host(check: Run) -> None:
    dsn = f"postgresql://x:{PASSWORD}@no-such-host.invalid/x"
    check(database_url=dsn).failed("database", "no-such-host.invalid", "could not translate")


def test_nobody_listens(check: Run) -> None:
    dsn = f"postgresql://x:{PASSWORD}@127.0.0.1:{closed_port()}/x"
    check(database_url=dsn).failed("database", "Connection refused")


@contextmanager
def over_tcp(server: postgres.EmbeddedPostgres) -> Iterator[int]:
    """The port of the loopback that leads to the server's socket."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                inside = socket.socket(socket.AF_UNIX)
                with client, inside:
                    inside.connect(str(server.folder / ".s.PGSQL.5432"))
                    answers = threading.Thread(target=copy, args=(inside, client))
                    answers.start()
                    copy(client, inside)
                    answers.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_database_that_says_nothing_is_named(check: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        found = check(database_url=f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/x")
    found.failed("database", f"host=127.0.0.1 port={port} user=me", "no answer in time")


def test_no_tls_where_it_is_wanted(check: Run, server: postgres.EmbeddedPostgres) -> None:
    with over_tcp(server) as port:
        dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=require"
        check(database_url=dsn).failed("database", "server does not support SSL")


def test_database_on_another_machine_without_tls_is_warned_of(
    check: Run, server: postgres.EmbeddedPostgres
) -> None:
    with over_tcp(server) as port:
        dsn = f"postgresql://postgres@db.example:{port}/postgres?hostaddr=127.0.0.1"
        state, text = check(database_url=dsn).lines["database"]
    assert (state, "db.example, no TLS" in text) == ("warning", True)
    assert "crosses the network in clear" in text


def test_database_can_only_be_read(check: Run, migrated: Any) -> None:
    migrated.execute(f"ALTER DATABASE {migrated.name} SET default_transaction_read_only = on")
    found = check(database_url=migrated.owner_dsn)
    found.failed("database", "can only be read (default_transaction_read_only is on)")


def test_database_cannot_hold_every_name(check: Run, server: postgres.EmbeddedPostgres) -> None:
    DatabaseServer(server.dsn()).execute(
        "CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII'"
        " LOCALE_PROVIDER libc LOCALE 'C'"
    )
    found = check(database_url=server.dsn("ascii"))
    found.failed("database", "encoding is SQL_ASCII", "ENCODING 'UTF8'")


def test_no_schema(check: Run, empty_database: Any) -> None:
    found = check(database_url=empty_database.owner_dsn)
    found.failed("schema", "lacks migrations: 0001_initial", "`migrate`")
    assert found.lines["rights"] == ("not tried", "needs: schema")


@pytest.fixture
def migrated(empty_database: Any) -> Any:
    migrate(empty_database.owner_dsn)
    return empty_database


def test_a_migration_is_missing(check: Run, migrated: Any) -> None:
    migrated.execute(
        "DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)"
    )
    found = check(database_url=migrated.owner_dsn)
    found.failed("schema", "The database lacks migrations: ")
    assert "0001_initial" not in found.lines["schema"][1]


def test_schema_is_newer(check: Run, migrated: Any) -> None:
    migrated.execute(
        "INSERT INTO schema_migrations (version, name, checksum)"
        " SELECT max(version) + 1, '9999_later', 'x' FROM schema_migrations"
    )
    found = check(database_url=migrated.owner_dsn)
    found.failed("schema", "newer than this version of the service", "9999_later")


def test_schema_is_another_one(check: Run, migrated: Any) -> None:
    migrated.execute("UPDATE schema_migrations SET checksum = 'x' WHERE version = 1")
    found = check(database_url=migrated.owner_dsn)
    found.failed("schema", "0001_initial was changed after it was applied")


@contextmanager
def revoked(database: Any, right: str, table: str, role: str = "ksef_proxy") -> Iterator[None]:
    database.execute(f"REVOKE {right} ON {table} FROM {role}")
    try:
        yield
    finally:
        database.execute(f"GRANT {right} ON {table} TO {role}")


def test_a_right_to_one_table_is_missing(check: Run, database: Any) -> None:
    with revoked(database, "DELETE", "webhooks"):
        check().failed("rights", "lacks DELETE on webhooks")


def test_a_right_to_one_column_is_missing(check: Run, database: Any) -> None:
    with revoked(database, "UPDATE (linked_at)", "offline_invoices"):
        found = check()
    found.failed("rights", "lacks UPDATE (linked_at) on offline_invoices")
    assert found.lines["keys"][0] == "ok"


def test_a_role_without_any_right_is_told_what_to_do(check: Run, migrated: Any) -> None:
    found = check(database_url=make_dsn(migrated.owner_dsn, options="-c role=erp"))
    found.failed("rights", "lacks ", " more: log in as ksef_proxy, or GRANT ksef_proxy TO ")
    assert len(found.lines["rights"][1]) < 300


def test_a_role_that_may_do_too_much_is_warned_of(check: Run, migrated: Any) -> None:
    found = check(database_url=migrated.owner_dsn)
    state, text = found.lines["rights"]
    assert (found.code, state) == (0, "warning")
    assert text.endswith("so it may change its own audit: log in as ksef_proxy")


def test_rights_to_see_the_schema_are_missing(check: Run, database: Any) -> None:
    with revoked(database, "SELECT", "schema_migrations", "PUBLIC"):
        check().failed("schema", "permission denied for table schema_migrations")


def test_schema_that_the_role_may_not_use(check: Run, database: Any) -> None:
    """Which PostgreSQL hides as if nothing were there: no migration would help."""
    with revoked(database, "USAGE", "SCHEMA public", "PUBLIC"):
        found = check()
    found.failed(
        "schema", "tables are in the schema public, which ", "GRANT USAGE ON SCHEMA public"
    )
    assert "lacks migrations" not in found.lines["schema"][1]


def test_schema_in_which_the_role_does_not_look(check: Run, settings: Settings) -> None:
    elsewhere = make_dsn(settings.database_url, options="-c role=ksef_proxy -c search_path=nowhere")
    found = check(database_url=elsewhere)
    found.failed("schema", "tables are in the schema public, which ", "search_path")


def test_role_without_limits_is_warned_of(check: Run, settings: Settings) -> None:
    found = check(database_url=make_dsn(settings.database_url, options="-c role=ksef_proxy"))
    state, text = found.lines["rights"]
    assert (found.code, state) == (0, "warning")
    assert "has no lock_timeout and no statement_timeout: ALTER ROLE " in text


def test_needed_rights_are_exactly_those_that_the_role_has(database: Any) -> None:
    """So that no GRANT of a migration is overlooked."""
    held = database.execute(
        "SELECT relname, privilege_type, '' FROM pg_class, aclexplode(relacl)"
        " WHERE relnamespace = 'public'::regnamespace AND grantee = 'ksef_proxy'::regrole"
        " UNION ALL SELECT relname, privilege_type, attname FROM pg_class"
        " JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)"
        " WHERE relnamespace = 'public'::regnamespace AND grantee = 'ksef_proxy'::regrole"
    )
    assert rights.needed() == set(held)


# -- the keys -------------------------------------------------------------------------------


def test_a_key_is_missing(check: Run, company: Company) -> None:
    [name] = company.service.vault.key_names
    found = check(secret_keys=(os.urandom(32),))
    found.failed("keys", f"sealed with the key {name}, which is not in SECRET_KEYS", NIP)
    assert found.lines["credentials"] == ("not tried", "needs: keys")


def test_a_stored_secret_is_of_another_row(check: Run, company: Company, database: Any) -> None:
    database.execute(
        "UPDATE ksef_sessions SET access_token = refresh_token WHERE environment = 'demo'"
    )
    found = check()
    found.failed("keys", "do not open, the first: access token", "in demo", "not sealed for")


def test_keys_are_told_by_names_that_do_not_show_them(check: Run, company: Company) -> None:
    secret = company.service.settings.secret_keys[0]
    state, text = check().lines["keys"]
    assert (state, company.service.vault.key_names[0] in text) == ("ok", True)
    assert secret.hex()[:8] not in text
    assert base64.b64encode(secret).decode()[:8] not in text


# -- KSeF, Latarnia, the proxy --------------------------------------------------------------


def test_ksef_is_not_reachable(check: Run, settings: Settings, company: Company) -> None:
    urls = {**settings.ksef_urls, "test": f"http://127.0.0.1:{closed_port()}/v2"}
    found = check(ksef_urls=urls)
    found.failed("ksef test", "127.0.0.1", "Connection refused")
    assert found.lines["clock"][0] == "not tried"
    assert found.lines[f"login {NIP} test"] == ("not tried", "needs: ksef test")


def test_ksef_of_another_environment_is_warned_of(
    check: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEFAULT_KSEF_URLS, "demo", settings.ksef_urls["demo"])
    state, text = check().lines["ksef test"]
    assert (state, text) == ("warning", "127.0.0.1 answers, but it is the KSeF of demo")


def test_ksef_has_no_address(check: Run, settings: Settings) -> None:
    urls = {**settings.ksef_urls, "test": "https://ksef.invalid/v2"}
    check(ksef_urls=urls).failed("ksef test", "ksef.invalid")


def test_one_environment_is_not_reachable(check: Run, settings: Settings) -> None:
    urls = {**settings.ksef_urls, "demo": f"http://127.0.0.1:{closed_port()}/v2"}
    found = check(environments=ENVIRONMENTS, ksef_urls=urls)
    found.failed("ksef demo", "Connection refused")
    assert found.lines["ksef test"][0] == found.lines["ksef prod"][0] == "ok"
    assert check(environments=("test", "prod"), ksef_urls=urls).code == 0


def test_ksef_is_down(check: Run, control: Any) -> None:
    control.set_api("test", available=False)
    check().failed("ksef test", "HTTP 503")


def test_url_of_ksef_lacks_its_version(check: Run, settings: Settings, sandbox: Any) -> None:
    urls = {**settings.ksef_urls, "test": f"{sandbox.url}/test"}
    check(ksef_urls=urls).failed("ksef test", "HTTP 404")


REASONS = {
    "expired": "TLS: certificate has expired",
    "another host": "TLS: IP address mismatch, certificate is not valid for '127.0.0.1'.",
    "unknown CA": "TLS: unable to get local issuer certificate (the CAs in KSEF_CA_BUNDLE",
}


@pytest.mark.parametrize("what", ["ksef", "latarnia"])
@pytest.mark.parametrize("mistake", REASONS)
def test_certificate_of_ksef_is_not_trusted(
    check: Run,
    settings: Settings,
    sandbox: Any,
    door: Open,
    ca: Ca,
    tmp_path: Path,
    mistake: str,
    what: str,
) -> None:
    options: dict[str, Any] = {
        "expired": {"ends": timedelta(days=-1)},
        "another host": {"host": "192.0.2.1"},
        "unknown CA": {},
    }[mistake]
    tls = door(certificate=ca.issue(tmp_path, **options), target=urlsplit(sandbox.url).port)
    url = f"https://127.0.0.1:{tls.port}"
    changes: dict[str, Any] = (
        {"ksef_urls": {**settings.ksef_urls, "test": f"{url}/test/v2"}}
        if what == "ksef"
        else {"latarnia_urls": {"test": f"{url}/latarnia/test"}}
    )
    bundle = certifi.where() if mistake == "unknown CA" else str(ca.bundle)
    check(**changes, ksef_ca_bundle=bundle).failed(f"{what} test", REASONS[mistake])


def test_certificate_of_ksef_is_trusted(
    check: Run, settings: Settings, sandbox: Any, door: Open, ca: Ca, tmp_path: Path
) -> None:
    tls = door(certificate=ca.issue(tmp_path), target=urlsplit(sandbox.url).port)
    urls = {**settings.ksef_urls, "test": f"https://127.0.0.1:{tls.port}/test/v2"}
    assert check(ksef_urls=urls, ksef_ca_bundle=str(ca.bundle)).code == 0


def test_latarnia_is_not_reachable(check: Run) -> None:
    found = check(latarnia_urls={"test": f"http://127.0.0.1:{closed_port()}"})
    found.failed("latarnia test", "127.0.0.1: Connection refused")
    assert found.lines["ksef test"][0] == "ok"


def test_latarnia_is_down(check: Run, control: Any, latarnia: dict[str, str]) -> None:
    control.set_latarnia("test", available=False)
    check(latarnia_urls=latarnia).failed("latarnia test", "HTTP 503")


def test_proxy_is_not_reachable(check: Run, latarnia: dict[str, str]) -> None:
    url = f"http://me:{PASSWORD}@127.0.0.1:{closed_port()}"
    found = check(ksef_proxy_url=url, latarnia_urls=latarnia)
    found.failed("proxy", "KSEF_PROXY_URL", "Connection refused")
    for name in ("ksef test", "latarnia test"):
        assert found.lines[name] == ("not tried", "needs: proxy")


class Refusing(BaseHTTPRequestHandler):
    def do_CONNECT(self) -> None:
        self.send_error(407)

    def log_message(self, *_: Any) -> None:
        pass


def test_proxy_refuses(check: Run, settings: Settings) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        url = f"http://me:{PASSWORD}@127.0.0.1:{proxy.server_port}"
        urls = {**settings.ksef_urls, "test": "https://ksef.example/v2"}
        found = check(ksef_proxy_url=url, ksef_urls=urls)
        proxy.shutdown()
    found.failed("ksef test", "KSEF_PROXY_URL", "407 Proxy Authentication Required")
    assert found.lines["proxy"][0] == "ok"


def test_certificate_of_the_proxy_is_not_trusted(
    check: Run, door: Open, ca: Ca, tmp_path: Path
) -> None:
    proxy = door(certificate=ca.issue(tmp_path, ends=timedelta(days=-1)))
    found = check(
        ksef_proxy_url=f"https://me:{PASSWORD}@127.0.0.1:{proxy.port}",
        ksef_ca_bundle=str(ca.bundle),
    )
    found.failed("ksef test", "KSEF_PROXY_URL: TLS: certificate has expired")


def test_proxy_is_used(check: Run, door: Open) -> None:
    proxy = door()
    found = check(ksef_proxy_url=f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}")
    assert (found.code, found.lines["proxy"][0]) == (0, "ok")
    assert proxy.heads[0].startswith("GET http://")


# -- the clock, credentials, certificates ---------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "state", "words"),
    [
        (-600, "failed", "600 s ahead of KSeF's"),
        (600, "failed", "600 s behind KSeF's"),
        (45, "warning", "s behind KSeF's"),
        (10, "ok", "s behind KSeF's"),
    ],
)
def test_clock(
    check: Run,
    sandbox: Any,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    state: str,
    words: str,
) -> None:
    monkeypatch.setattr(
        sandbox.RequestHandlerClass,
        "date_time_string",
        lambda _self: format_date_time(round(time.time() + seconds)),
    )
    found = check()
    given, text = found.lines["clock"]
    assert given == state
    assert words in text or f"{abs(seconds) + 1} s" in text or f"{abs(seconds) - 1} s" in text
    assert found.code == (1 if state == "failed" else 0)


@pytest.mark.parametrize(("outcome", "word"), [(450, "valid token"), (480, "An operator must act")])
def test_ksef_refuses_the_credential(
    check: Run, company: Company, control: Any, outcome: int, word: str
) -> None:
    control.set_token_outcome("test", outcome, nip=NIP)
    found = check(environments=("test", "demo"))
    found.failed(f"login {NIP} test", "refused", word)
    assert found.lines[f"login {NIP} demo"][0] == "ok"


def test_a_credential_that_ksef_blocked_is_not_tried(
    check: Run, company: Company, control: Any, database: Any
) -> None:
    database.execute(
        "UPDATE ksef_credentials SET refused_code = 480, refused_words = 'Blocked',"
        " refused_at = now() - interval '1 day' WHERE environment = 'test'"
    )
    check().failed(f"login {NIP} test", "Blocked", "An operator must act")
    assert set(control.call_counts("test")) == {
        "GET /{environment}/v2/security/public-key-certificates"
    }


def test_during_a_simulation_no_login_is_tried(check: Run, company: Company, app: Flask) -> None:
    simulate = ["outage", "simulate", "test", "--message", "Ćwiczenie"]
    assert app.test_cli_runner().invoke(args=simulate).exit_code == 0
    found = check()
    state, text = found.lines[f"login {NIP} test"]
    assert (found.code, state) == (0, "warning")
    assert text.startswith("not tried: ")


@pytest.mark.parametrize(
    ("days", "state", "words"),
    [(10, "warning", "valid until"), (-0.5, "failed", "expired on"), (100, "ok", "valid until")],
)
def test_certificate_of_a_company_ends(
    check: Run, company: Company, days: float, state: str, words: str
) -> None:
    made = make(days=(-1, days))
    account = company.account("demo")
    credentials.store_certificate(account, certificates.read(made.pem, made.key_pem()))
    found = check("--no-login")
    given, text = found.lines["certificates"]
    assert given == state
    assert f"that of {NIP} in demo" in text
    assert words in text
    assert found.code == (1 if state == "failed" else 0)


def test_no_company_yet(check: Run) -> None:
    found = check()
    assert (found.code, found.lines["credentials"]) == (0, ("ok", "0 stored"))


def test_what_nobody_thought_of_is_told_without_a_stack_trace(
    check: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Any) -> Any:
        raise RuntimeError(PASSWORD)

    monkeypatch.setattr(Checks, "_database", broken)
    app = create_app(settings)
    result = app.test_cli_runner().invoke(args=["check", "--environment", "test"])
    app.extensions[EXTENSION].db.close()
    assert result.exit_code == 1
    assert "failed     database               an unexpected error: RuntimeError\n" in result.stdout
    assert PASSWORD not in result.output
