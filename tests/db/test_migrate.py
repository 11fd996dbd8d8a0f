"""The migration runner, on databases of its own."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from app import clock
from app.db import migrate as runner
from app.db.migrate import MIGRATIONS, Patience, latest, migrate, pending
from app.errors import OperatorError
from tests.conftest import DatabaseServer

FILES = {
    "0001_birds": "CREATE TABLE birds (name text PRIMARY KEY)",
    "0002_owl": "INSERT INTO birds VALUES ('100 % owl')",
    "0003_crow": "INSERT INTO birds VALUES ('crow'), ('żuraw'); CREATE INDEX ON birds (name)",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the three migrations."""
    for name, text in FILES.items():
        (tmp_path / f"{name}.sql").write_text(text, "utf-8")
    return tmp_path


@pytest.fixture
def birds(empty_database: Any) -> Callable[[], list[str]]:
    """Asks for the rows that the migrations left."""
    return lambda: [
        name
        for (name,) in empty_database.execute('SELECT name FROM birds ORDER BY name COLLATE "C"')
    ]


def missing(dsn: str, folder: Path) -> list[str]:
    with closing(psycopg2.connect(dsn)) as connection:
        return pending(connection, folder)


def test_files_are_applied_once_and_in_order(
    empty_database: Any, folder: Path, birds: Callable[[], list[str]]
) -> None:
    assert migrate(empty_database.owner_dsn, folder) == list(FILES)
    assert birds() == ["100 % owl", "crow", "żuraw"]
    assert migrate(empty_database.owner_dsn, folder) == []
    rows = empty_database.execute(
        "SELECT version, name, length(checksum), applied_at <= now() FROM schema_migrations"
    )
    assert rows == [(number, name, 64, True) for number, name in enumerate(FILES, start=1)]


def test_new_files_are_added_to_what_is_applied(empty_database: Any, folder: Path) -> None:
    migrate(empty_database.owner_dsn, folder)
    (folder / "0004_more.sql").write_text("SELECT 1")
    assert migrate(empty_database.owner_dsn, folder) == ["0004_more"]


def test_a_failing_file_leaves_nothing_and_those_before_it_stay(
    empty_database: Any, folder: Path, birds: Callable[[], list[str]]
) -> None:
    (folder / "0003_crow.sql").write_text("INSERT INTO birds VALUES ('crow'); SELECT 1 / 0")
    with pytest.raises(OperatorError, match=r"0003_crow failed.*division by zero"):
        migrate(empty_database.owner_dsn, folder)
    assert birds() == ["100 % owl"]
    assert missing(empty_database.owner_dsn, folder) == ["0003_crow"]

    (folder / "0003_crow.sql").write_text("INSERT INTO birds VALUES ('crow')")
    assert migrate(empty_database.owner_dsn, folder) == ["0003_crow"]


def test_a_file_changed_after_it_was_applied_is_refused(empty_database: Any, folder: Path) -> None:
    migrate(empty_database.owner_dsn, folder)
    (folder / "0002_owl.sql").write_text("INSERT INTO birds VALUES ('eagle owl')")
    (folder / "0004_more.sql").write_text("SELECT 1")
    with pytest.raises(OperatorError, match="0002_owl was changed after it was applied"):
        migrate(empty_database.owner_dsn, folder)
    assert missing(empty_database.owner_dsn, folder) == ["0004_more"]


def test_a_database_newer_than_the_files_is_refused(empty_database: Any, folder: Path) -> None:
    migrate(empty_database.owner_dsn, folder)
    (folder / "0003_crow.sql").unlink()
    with pytest.raises(OperatorError, match=r"newer than this version.*0003_crow"):
        migrate(empty_database.owner_dsn, folder)
    # A replica of the older version goes on working while the newer one is rolled out.
    assert missing(empty_database.owner_dsn, folder) == []


def test_the_last_ones_applied_and_known_are_told(empty_database: Any, folder: Path) -> None:
    def told() -> tuple[str | None, str]:
        with closing(psycopg2.connect(empty_database.owner_dsn)) as connection:
            return latest(connection, folder)

    assert told() == (None, "0003_crow")
    migrate(empty_database.owner_dsn, folder)
    assert told() == ("0003_crow", "0003_crow")
    (folder / "0004_more.sql").write_text("SELECT 1")
    assert told() == ("0003_crow", "0004_more")
    (folder / "0004_more.sql").unlink()
    (folder / "0003_crow.sql").unlink()  # by the older version, while the newer one is rolled out
    assert told() == ("0003_crow", "0002_owl")


def test_a_database_of_another_history_is_refused(empty_database: Any, folder: Path) -> None:
    migrate(empty_database.owner_dsn, folder)
    (folder / "0002_owl.sql").rename(folder / "0002_eagle.sql")
    with pytest.raises(OperatorError, match="holds 0002_owl where the files have 0002_eagle"):
        migrate(empty_database.owner_dsn, folder)


@pytest.mark.parametrize("name", ["0005_gap", "0003_twice", "4_short", "0004-dash"])
def test_misnamed_files_are_refused(empty_database: Any, folder: Path, name: str) -> None:
    (folder / f"{name}.sql").write_text("SELECT 1")
    with pytest.raises(OperatorError, match="should be called 000"):
        migrate(empty_database.owner_dsn, folder)
    assert empty_database.execute("SELECT to_regclass('birds')") == [(None,)]


def test_eight_at_once_apply_each_file_once(
    empty_database: Any, folder: Path, birds: Callable[[], list[str]]
) -> None:
    together = Barrier(8)

    def run(_: int) -> list[str]:
        together.wait(timeout=10)
        return migrate(empty_database.owner_dsn, folder)

    with ThreadPoolExecutor(8) as threads:
        applied = [name for names in threads.map(run, range(8)) for name in names]
    assert sorted(applied) == list(FILES)
    assert birds() == ["100 % owl", "crow", "żuraw"]


def test_timeouts_of_the_database_do_not_hold_for_migrations(
    empty_database: Any, folder: Path
) -> None:
    empty_database.execute(f"ALTER DATABASE {empty_database.name} SET statement_timeout = '50ms'")
    (folder / "0004_slow.sql").write_text("SELECT pg_sleep(0.2)")
    assert "0004_slow" in migrate(empty_database.owner_dsn, folder)


# -- locks ----------------------------------------------------------------------------------


@pytest.fixture
def altering(empty_database: Any, folder: Path) -> Path:
    """The folder with a migration more, which takes a table that others read."""
    migrate(empty_database.owner_dsn, folder)
    (folder / "0004_colour.sql").write_text("ALTER TABLE birds ADD COLUMN colour text")
    return folder


@contextmanager
def held(database: Any) -> Iterator[Any]:
    """A transaction that has read the table and does not end; its connection."""
    dsn = make_dsn(database.owner_dsn, application_name="a report")
    with closing(psycopg2.connect(dsn)) as connection:
        connection.cursor().execute("SELECT FROM birds")
        yield connection


def await_lock(database: Any, table: str, *, granted: bool) -> None:
    """Return once somebody has all of the table, or waits for that."""
    deadline = clock.monotonic() + 5
    while clock.monotonic() < deadline:
        if database.execute(
            f"SELECT 1 FROM pg_locks WHERE relation = '{table}'::regclass AND granted = {granted}"
            " AND mode = 'AccessExclusiveLock'"
        ):
            return
    raise AssertionError("nobody does")


def test_who_queues_behind_a_waiting_migration_gets_through(
    empty_database: Any, altering: Path
) -> None:
    told: list[str] = []
    patience = Patience(lock=0.3, pause=0.1, tries=100)
    with ThreadPoolExecutor(1) as threads, held(empty_database) as holder:
        migrating = threads.submit(
            migrate, empty_database.owner_dsn, altering, patience=patience, tell=told.append
        )
        for _ in range(3):
            await_lock(empty_database, "birds", granted=False)
            empty_database.execute("SET statement_timeout = '2s'; SELECT name FROM birds")
        assert not migrating.done()
        pid = holder.info.backend_pid
        holder.rollback()
        assert migrating.result(10) == ["0004_colour"]
    assert told[0].startswith("0004_colour waits for a lock; in use are ")
    assert f"birds by process {pid} (" in told[0]
    assert ", a report)" in told[0]
    assert told[0].endswith(" (tries left: 99)")
    assert len(told) >= 3
    assert missing(empty_database.owner_dsn, altering) == []


def test_a_lock_that_is_never_given_is_given_up(empty_database: Any, altering: Path) -> None:
    told: list[str] = []
    patience = Patience(lock=0.3, pause=0.3, tries=3)
    began = clock.monotonic()
    with held(empty_database), pytest.raises(OperatorError) as failure:
        migrate(empty_database.owner_dsn, altering, patience=patience, tell=told.append)
    assert clock.monotonic() - began >= 3 * patience.lock + 2 * patience.pause
    assert [text[-15:] for text in told] == ["(tries left: 2)", "(tries left: 1)"]
    assert "0004_colour waits for a lock; in use are birds by process " in str(failure.value)
    assert str(failure.value).endswith(": given up after 3 tries, which left nothing behind.")
    assert missing(empty_database.owner_dsn, altering) == ["0004_colour"]
    assert migrate(empty_database.owner_dsn, altering) == ["0004_colour"]


def test_a_deadlock_is_a_lock_that_was_not_to_be_had(empty_database: Any, folder: Path) -> None:
    migrate(empty_database.owner_dsn, folder)
    empty_database.execute("CREATE TABLE nests ()")
    (folder / "0004_both.sql").write_text(
        "SET LOCAL deadlock_timeout = '50ms'; LOCK nests; SELECT pg_sleep(0.5); LOCK birds"
    )
    patience = Patience(lock=5.0, pause=0.5, tries=2)
    told: list[str] = []
    with ThreadPoolExecutor(1) as threads, held(empty_database) as holder:
        migrating = threads.submit(
            migrate, empty_database.owner_dsn, folder, patience=patience, tell=told.append
        )
        await_lock(empty_database, "nests", granted=True)
        holder.cursor().execute("SELECT FROM nests")
        holder.rollback()
        assert migrating.result(10) == ["0004_both"]
    assert len(told) == 1


def test_what_takes_long_is_not_cut_off_and_another_migration_waits_for_it(
    empty_database: Any, folder: Path
) -> None:
    """Only the wait for a lock is short; that for one's turn is not."""
    (folder / "0004_slow.sql").write_text("SELECT pg_sleep(0.8)")
    patience = Patience(lock=0.1, tries=1)
    together = Barrier(2)

    def run(_: int) -> list[str]:
        together.wait(timeout=10)
        return migrate(empty_database.owner_dsn, folder, patience=patience)

    with ThreadPoolExecutor(2) as threads:
        applied = [name for names in threads.map(run, range(2)) for name in names]
    assert sorted(applied) == [*FILES, "0004_slow"]


# -- others ---------------------------------------------------------------------------------


def test_pending_only_reads(empty_database: Any, folder: Path) -> None:
    assert missing(empty_database.owner_dsn, folder) == list(FILES)
    assert empty_database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]


def test_the_service_may_ask_what_is_pending(database: Any) -> None:
    assert missing(database.service_dsn, MIGRATIONS) == []


def test_an_old_server_is_refused() -> None:
    with pytest.raises(OperatorError, match="PostgreSQL 15 or newer is needed; this is 14"):
        runner._check_server(SimpleNamespace(server_version=140_022))


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN2"])
def test_a_database_that_cannot_hold_every_name_is_refused(
    database_server: Any, folder: Path, encoding: str
) -> None:
    """As made where the server was set up without a locale. Nothing is left in it."""
    name = f"ksef_proxy_test_{encoding.lower()}"
    database_server.execute(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'"
        " LOCALE_PROVIDER libc LOCALE 'C'"
    )
    try:
        with pytest.raises(OperatorError) as refused:
            migrate(database_server.dsn(name), folder)
        assert database_server.execute("SELECT to_regclass('schema_migrations')", name) == [(None,)]
    finally:
        database_server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert str(refused.value) == (
        f"The database's encoding is {encoding}, which cannot hold every name: make it anew, by"
        f" CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8'."
    )


def test_an_unreachable_server_is_an_operators_error(tmp_path: Path) -> None:
    dsn = f"postgresql://me:Sec-ret@/x?host={tmp_path}"
    with pytest.raises(OperatorError, match="cannot be migrated") as failure:
        migrate(dsn, tmp_path)
    assert f"host={tmp_path}" in str(failure.value)
    assert "No such file or directory" in str(failure.value)
    assert "Sec-ret" not in str(failure.value)


def test_rows_that_can_never_be_linked_are_named_and_left(empty_database: Any) -> None:
    older = sorted(MIGRATIONS.glob("*.sql"))[:12]
    with TemporaryDirectory() as folder:
        for file in older:
            (Path(folder) / file.name).write_bytes(file.read_bytes())
        migrate(empty_database.owner_dsn, Path(folder))
    good = "5265877635-20250826-0100001AF629-AF"
    empty_database.execute(
        "INSERT INTO companies (nip, name) VALUES ('5265877635', 'x');"
        "INSERT INTO synced_invoices (company_nip, environment, ksef_number, invoice_number)"
        f" SELECT '5265877635', 'test', number, 'FV' FROM unnest(ARRAY['{good}', '{good} ',"
        f" '{good.lower()}', E'{good}\\n']) AS number;"
        "INSERT INTO offline_invoices (company_nip, environment, invoice_number,"
        " ksef_reference_number) VALUES ('5265877635', 'test', 'FV', '20250826-so-1')"
    )
    told: list[str] = []
    migrate(empty_database.owner_dsn, tell=told.append)
    named = [line for line in told if "will never be linked" in line]
    assert len(named) == 4
    assert f"'{good} ' is no KSeF number (one of 3 such rows)" in "".join(named)
    assert empty_database.execute("SELECT count(*) FROM synced_invoices") == [(4,)]
    for number in (f"{good} ", good.lower(), f"{good}\n"):
        with pytest.raises(psycopg2.errors.CheckViolation):
            empty_database.execute(
                "INSERT INTO synced_invoices (company_nip, environment, ksef_number,"
                f" invoice_number) VALUES ('5265877635', 'demo', '{number}', 'FV')"
            )


def test_a_warning_of_a_migration_is_told(empty_database: Any, folder: Path) -> None:
    (folder / "0004_warns.sql").write_text("DO $$ BEGIN RAISE WARNING 'mind the owl'; END $$")
    told: list[str] = []
    migrate(empty_database.owner_dsn, folder, tell=told.append)
    assert told == ["WARNING:  mind the owl"]


def test_limits_of_the_role_are_set_once_and_leave_those_of_an_operator(
    database_server: DatabaseServer, empty_database: Any, tmp_path: Path
) -> None:
    """On a role of the test's own, since that of the service belongs to the whole server."""
    role = f"{empty_database.name}_role"
    text = (MIGRATIONS / "0010_role_limits.sql").read_text("utf-8")
    (tmp_path / "0001_limits.sql").write_text(text.replace("ksef_proxy", role))
    database_server.execute(f"CREATE ROLE {role}; ALTER ROLE {role} SET lock_timeout = '7s'")
    try:
        migrate(empty_database.owner_dsn, tmp_path)
        [(limits,)] = empty_database.execute(
            f"SELECT rolconfig FROM pg_roles WHERE rolname = '{role}'"
        )
        assert sorted(limits) == [
            "idle_in_transaction_session_timeout=30s",
            "lock_timeout=7s",
            "statement_timeout=3s",
        ]
    finally:
        database_server.execute(f"DROP ROLE {role}")


def test_an_owner_who_may_not_limit_the_role_is_told_so(
    database_server: DatabaseServer, empty_database: Any, tmp_path: Path
) -> None:
    owner, role = f"{empty_database.name}_owner", f"{empty_database.name}_role"
    text = (MIGRATIONS / "0010_role_limits.sql").read_text("utf-8")
    (tmp_path / "0001_limits.sql").write_text(text.replace("ksef_proxy", role))
    database_server.execute(f"CREATE ROLE {role}; CREATE ROLE {owner}")
    try:
        empty_database.execute(f"GRANT CREATE ON SCHEMA public TO {owner}")
        database_server.execute(f"GRANT {owner} TO CURRENT_USER")
        told: list[str] = []
        dsn = database_server.dsn(empty_database.name, owner)
        assert migrate(dsn, tmp_path, tell=told.append) == ["0001_limits"]
        assert len(told) == 3
        assert f"ALTER ROLE {role} SET lock_timeout = '1500ms' is left to an administ" in told[0]
    finally:
        empty_database.execute(f"DROP OWNED BY {owner}")
        database_server.execute(f"DROP ROLE {role}; DROP ROLE {owner}")
