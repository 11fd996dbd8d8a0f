"""Row 39 of the fault matrix: PostgreSQL commits, and its answer is lost on the way."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from app import errors
from app.account import Account
from app.ksef import limits
from app.service import Service
from app.services.login.tokens import AccessToken
from app.services.replicas import quota
from app.services.replicas.leases import try_lease
from app.settings import Settings
from tests.service import Company, basic

NIP = "5265877635"
ENDED = (
    "UPDATE ksef_sessions SET access_token_valid_until = now(), refresh_token_valid_until = now()"
)
pytestmark = pytest.mark.fault(39)


class Line:
    """A way to PostgreSQL that loses one answer, of the next message with `marker` in it."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self.marker: bytes | None = None
        self.lost = 0
        parts = parse_dsn(dsn)
        self._there = parts["host"], int(parts.get("port", 5432))
        self.dsn = make_dsn(dsn, host=str(folder), port=5432)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _connected(self) -> socket.socket:
        host, port = self._there
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server, losing = self._connected(), threading.Event()
                for do in (self._to_server, self._to_client):
                    threading.Thread(target=do, args=(client, server, losing), daemon=True).start()

    def _to_server(
        self, client: socket.socket, server: socket.socket, losing: threading.Event
    ) -> None:
        with suppress(OSError), server:
            while data := client.recv(65536):
                if self.marker and self.marker in data:
                    self.marker = None
                    losing.set()
                server.sendall(data)

    def _to_client(
        self, client: socket.socket, server: socket.socket, losing: threading.Event
    ) -> None:
        with suppress(OSError), client:
            while data := server.recv(65536):  # it has committed what it answers
                if losing.is_set():
                    self.lost += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def line(tmp_path_factory: pytest.TempPathFactory, database: Any) -> Iterator[Line]:
    made = Line(tmp_path_factory.mktemp("line"), database.service_dsn)
    yield made
    made.close()


@pytest.fixture
def settings(settings: Settings, line: Line) -> Settings:
    timing = replace(settings.timing, silent_login=60.0)
    return replace(settings, database_url=line.dsn, timing=timing)


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, environments=("test",))


@pytest.fixture
def account(service: Service, company: Company) -> Account:
    return service.account(NIP, "test")


def rows(database: Any, table: str) -> int:
    [(count,)] = database.execute(f"SELECT count(*) FROM {table}")
    return int(count)


def test_a_lease_is_taken_and_given_back(database: Any, line: Line, account: Account) -> None:
    for marker in (b"INSERT INTO leases", b"DELETE FROM leases"):
        line.marker = marker
        with try_lease(account, "question") as lease:
            assert lease is not None
        assert rows(database, "leases") == 0
    assert line.lost == 2


def test_a_silent_login_is_made_though_its_claim_seems_lost(
    database: Any, control: Any, line: Line, account: Account
) -> None:
    control.expire_bearers("test", nip=NIP)
    database.execute(ENDED)
    line.marker = b"silent_login_at = CASE"
    assert AccessToken(account).access_token()
    assert line.lost == 1
    assert rows(database, "leases") == 0
    # The claim still holds for everybody else.
    database.execute(ENDED)
    with pytest.raises(errors.KsefError, match="a moment ago"):
        AccessToken(account).access_token()


def test_a_call_is_counted_once_or_not_sent(
    database: Any, control: Any, line: Line, account: Account
) -> None:
    """What was reserved without an answer counts and is not used: our share is on the safe side."""
    used = rows(database, "quota_calls")
    line.marker = b"COMMIT\x00"
    with pytest.raises(errors.Unavailable):
        quota.reserve(account, limits.SESSION)
    assert line.lost == 1
    assert rows(database, "quota_calls") == rows(database, "address_calls") == used + 1


def test_an_answer_is_kept_and_linked_once(
    database: Any, control: Any, line: Line, company: Company
) -> None:
    session = control.seed_session("test", NIP, invoices=2)
    path = f"/invoices/test/status/{session.reference_number}"
    line.marker = b"INSERT INTO kept_sessions"
    first = company.client.get(path, headers=company.authorization)
    assert line.lost == 1
    again = company.client.get(path, headers=company.authorization)
    assert again.status_code == 200
    assert first.status_code in (200, 503)
    assert rows(database, "kept_invoices") == 2
    assert rows(database, "leases") == 0


def test_a_failed_login_counts_once(database: Any, line: Line, company: Company) -> None:
    wrong = basic(company.email, "wrong password")
    line.marker = b"login_attempts"
    told = company.client.get("/auth/test", headers=wrong).status_code
    assert line.lost == 1
    assert told in (401, 503)
    assert database.execute("SELECT max(cardinality(failed_at)) FROM login_attempts") == [(1,)]
