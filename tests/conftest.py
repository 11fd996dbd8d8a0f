"""What the tests stand on: a real PostgreSQL and the sandbox KSeF.

| fixture | scope | gives |
|---|---|---|
| `database_server` | session | the server behind `DATABASE_URL`, else an embedded one |
| `empty_database` | test | a database of the test's own, without any table |
| `database` | test | the migrated database, all tables empty |
| `running_sandbox` | session | the sandbox KSeF over HTTP |
| `sandbox` | test | the same, reset |
"""

import logging
import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from app.db.migrate import migrate
from sandbox import postgres
from sandbox.control import Control
from sandbox.server import RunningSandbox
from sandbox.server import start as start_sandbox

pytest_plugins = ["tests.service", "tests.browser", "tests.hypothesis_profile"]

# A script's background job ignores SIGINT, and so would all that the tests start and stop by it.
# Without the second line SIGTERM would leave such processes behind.
for _number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(_number, signal.default_int_handler)

PROJECT = Path(__file__).parents[1]
ROLES = ("ksef_proxy", "erp")  # made by the first migration, without login


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Write the rows of the fault matrix beside each test, where `make faults` reads them."""
    for item in items:
        rows = {row for mark in item.iter_markers("fault") for row in mark.args}
        item.user_properties += [("fault", row) for row in sorted(rows)]


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """A PostgreSQL in which tests may make databases; `admin_dsn` is one of its databases."""

    admin_dsn: str

    def dsn(self, database: str, role: str | None = None) -> str:
        """A database, as the administrator or with the rights of a role only.

        The role is taken on rather than logged in as: that needs no password on any server. Its
        limits for statements, which belong to a login, are set with it.
        """
        limits = "-c lock_timeout=1500 -c statement_timeout=3000" if role == "ksef_proxy" else ""
        options = {"options": f"-c role={role} {limits}"} if role else {}
        return make_dsn(self.admin_dsn, dbname=database, **options)

    def execute(self, statement: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run a statement as the administrator, outside of any transaction; its rows, if any."""
        dsn = self.dsn(database) if database else self.admin_dsn
        with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """The name of a new empty database, dropped at the end."""
        name = f"ksef_proxy_test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@dataclass(frozen=True, slots=True)
class TestDatabase:
    """One database and the ways to connect to it.

    `owner_dsn`: the owner, who may change the schema · `service_dsn`: the role of the service,
    without DDL · `erp_dsn`: the role of the ERP systems.
    """

    __test__ = False

    server: DatabaseServer
    name: str
    _idle: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def owner_dsn(self) -> str:
        return self.server.dsn(self.name)

    @property
    def service_dsn(self) -> str:
        return self.server.dsn(self.name, "ksef_proxy")

    @property
    def erp_dsn(self) -> str:
        return self.server.dsn(self.name, "erp")

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as the owner and commit it; its rows, if any."""
        with self.connection() as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """The owner's, which commits each statement, as good as new.

        Kept open afterwards: to open one takes PostgreSQL ten times as long as a usual statement.
        """
        connection = self._take_idle()
        if not connection:
            connection = psycopg2.connect(self.owner_dsn)
            connection.autocommit = True
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)

    def _take_idle(self) -> Any:
        with suppress(IndexError):
            while True:
                connection = self._idle.pop()
                with suppress(psycopg2.Error), connection.cursor() as cursor:
                    cursor.execute("DISCARD ALL")
                    return connection
        return None


@pytest.fixture(autouse=True)
def _usual_log() -> None:
    """Tests run in any order in one process, and one before may have silenced the log."""
    log = logging.getLogger("ksef_proxy")
    log.handlers, log.propagate = [], True
    log.setLevel("INFO")


@pytest.fixture(scope="session")
def database_server() -> Iterator[DatabaseServer]:
    """The server behind `DATABASE_URL`, else an embedded one in the project's `.test` folder.

    The user of `DATABASE_URL` needs the right to make databases and roles. Nothing but databases
    called `ksef_proxy_test_…` and the service's two roles is made there.
    """
    if url := os.environ.get("DATABASE_URL"):
        yield DatabaseServer(url)
        return
    with _embedded_server() as server:
        yield server


@contextmanager
def _embedded_server() -> Iterator[DatabaseServer]:
    kept, of_this_run = PROJECT / ".test/postgres", PROJECT / f".test/postgres-{os.getpid()}"
    try:
        running = postgres.start(kept, durable=False, patience=0)
    except postgres.FolderInUseError:  # by a test run beside this one
        running = postgres.start(of_this_run, durable=False)
    try:
        with running:
            server = DatabaseServer(running.dsn())
            for (leftover,) in server.execute(
                r"SELECT datname FROM pg_database WHERE datname LIKE 'ksef\_proxy\_test\_%'"
            ):
                server.execute(f"DROP DATABASE {leftover} WITH (FORCE)")
            yield server
    finally:
        if of_this_run.exists():
            shutil.rmtree(running.folder)
            shutil.rmtree(of_this_run, ignore_errors=True)  # where the folder was moved


@pytest.fixture
def empty_database(database_server: DatabaseServer) -> Iterator[TestDatabase]:
    """A database of the test's own without any table, for tests of migrations (some 50 ms)."""
    with database_server.scratch() as name:
        yield TestDatabase(database_server, name)


@pytest.fixture(scope="session")
def _migrated_database(database_server: DatabaseServer) -> Iterator[tuple[TestDatabase, str]]:
    with migrated(database_server) as made:
        yield made


@contextmanager
def migrated(server: DatabaseServer) -> Iterator[tuple[TestDatabase, str]]:
    """A database that `database` can hand out, and the statement that empties it."""
    with server.scratch() as name:
        database = TestDatabase(server, name)
        migrate(database.owner_dsn)
        # Only a superuser may take on any role.
        database.execute(f"GRANT {', '.join(ROLES)} TO CURRENT_USER")
        tables = _children_first(database)
        yield database, "; ".join(f"DELETE FROM {table}" for table in tables)


@pytest.fixture
def database(_migrated_database: tuple[TestDatabase, str]) -> TestDatabase:
    """The migrated database with all its tables empty.

    Emptied before the test rather than after it, so that the rows of a single failing test can
    be looked at. DELETE takes a tenth of TRUNCATE's time; identity columns go on counting.
    """
    database, empty = _migrated_database
    # Something left running by an earlier test must not hang this one.
    database.execute(f"SET lock_timeout = '5s'; BEGIN; {empty}; COMMIT")
    return database


def _children_first(database: TestDatabase) -> list[str]:
    """All tables but the migrations' own, each before those that it refers to."""
    tables = database.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'schema_migrations'"
    )
    references = database.execute(
        "SELECT confrelid::regclass::text, conrelid::regclass::text FROM pg_constraint"
        " WHERE contype = 'f' AND conparentid = 0 AND confrelid <> conrelid"
    )
    order: TopologicalSorter[str] = TopologicalSorter({table: () for (table,) in tables})
    for parent, child in references:
        order.add(parent, child)
    return list(order.static_order())


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[RunningSandbox]:
    """The sandbox KSeF on a free port of the loopback."""
    with start_sandbox() as running:
        yield running


@pytest.fixture(scope="session")
def _running_control(running_sandbox: RunningSandbox) -> Iterator[Control]:
    with Control(running_sandbox.url) as control:
        yield control


@pytest.fixture
def control(_running_control: Control) -> Control:
    """The sandbox's control plane; no session, fault, moved clock or logged call is left."""
    _running_control.reset()
    return _running_control


@pytest.fixture
def sandbox(running_sandbox: RunningSandbox, control: Control) -> RunningSandbox:
    """The running sandbox, reset."""
    return running_sandbox
