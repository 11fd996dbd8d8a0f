"""Connections, transactions and single statements, on a real PostgreSQL."""

import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest

from app import clock, errors
from app.db.pool import Database, PoolTiming, retried

QUICK = PoolTiming(connect=2, wait=0.05, lock=0.1, statement=3)
PATIENT = PoolTiming(connect=2, wait=10, lock=0.1, statement=3)
MakePool = Callable[..., Database]


@pytest.fixture
def make_pool(database: Any) -> Iterator[MakePool]:
    made: list[Database] = []

    def make(*, size: int = 2, timing: PoolTiming = QUICK, dsn: str | None = None) -> Database:
        made.append(Database(dsn or database.service_dsn, size=size, timing=timing))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


@pytest.fixture
def pool(make_pool: MakePool) -> Database:
    return make_pool()


def run(pool: Database, statement: str) -> Any:
    with pool.transaction() as connection:
        return fetch(connection, statement)


def fetch(connection: Any, statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None


def backend(pool: Database) -> int:
    """The server process that the pool's next transaction meets."""
    return int(run(pool, "SELECT pg_backend_pid()"))


@contextmanager
def a_thousand_files_open() -> Iterator[None]:
    """And some more, so that what is opened meanwhile has a descriptor above 1023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this system gives a process no more than a thousand files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1024)]
    try:
        yield
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def companies(database: Any) -> list[str]:
    return [nip for (nip,) in database.execute("SELECT nip FROM companies ORDER BY nip")]


def insert(nip: str) -> str:
    return f"INSERT INTO companies (nip, name) VALUES ('{nip}', 'x')"


class TestTransaction:
    def test_is_committed_at_its_end(self, pool: Database, database: Any) -> None:
        with pool.transaction() as connection:
            fetch(connection, insert("5265877635"))
            assert companies(database) == []
        assert companies(database) == ["5265877635"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, errors.Forbidden])
    def test_is_rolled_back_by_any_error_which_goes_on(
        self, pool: Database, database: Any, error: type[BaseException]
    ) -> None:
        pid = backend(pool)

        def fail(connection: Any) -> None:
            fetch(connection, insert("5265877635"))
            raise error("of our own")

        with pytest.raises(error), pool.transaction() as connection:
            fail(connection)
        assert companies(database) == []
        assert backend(pool) == pid
        run(pool, insert("7171642051"))
        assert companies(database) == ["7171642051"]

    def test_a_broken_rule_of_the_schema_is_not_taken_for_an_outage(
        self, pool: Database, database: Any
    ) -> None:
        with pytest.raises(psycopg2.errors.CheckViolation):
            run(pool, insert("not a NIP"))
        assert backend(pool)

    def test_its_limits_end_with_it(self, pool: Database) -> None:
        """A pooler of connections hands them on to others: nothing of ours may stay set."""
        with pool.transaction() as connection:
            assert fetch(connection, "SHOW statement_timeout") == "3s"
            assert fetch(connection, "SHOW lock_timeout") == "100ms"
        [connection] = pool._idle
        assert fetch(connection, "SHOW statement_timeout") == "0"
        assert fetch(connection, "SHOW lock_timeout") == "0"

    def test_a_statement_that_takes_too_long_is_unavailable(self, make_pool: MakePool) -> None:
        pool = make_pool(timing=PoolTiming(connect=2, wait=1, lock=1, statement=0.1))
        with pytest.raises(errors.Unavailable, match="does not answer"):
            run(pool, "SELECT pg_sleep(5)")
        assert backend(pool)

    def test_a_lock_that_takes_too_long_is_unavailable(self, make_pool: MakePool) -> None:
        pool = make_pool()
        run(pool, insert("5265877635"))
        row = "SELECT nip FROM companies FOR UPDATE"
        with pool.transaction() as holder:
            fetch(holder, row)
            began = clock.monotonic()
            with pytest.raises(errors.Unavailable):
                run(pool, row)
            assert 0.1 <= clock.monotonic() - began < 2
        assert run(pool, row) == "5265877635"


class TestTurns:
    def test_connections_are_used_again(self, pool: Database) -> None:
        assert len({backend(pool) for _ in range(5)}) == 1

    def test_transactions_at_the_same_time_have_connections_of_their_own(
        self, pool: Database
    ) -> None:
        with pool.transaction() as first, pool.transaction() as second:
            pid = "SELECT pg_backend_pid()"
            assert fetch(first, pid) != fetch(second, pid)

    def test_are_used_again_whatever_the_number_of_their_descriptor(self, pool: Database) -> None:
        """A process with many sockets has them above 1023, where `select` fails."""
        with a_thousand_files_open():
            pids = {backend(pool) for _ in range(3)}
        assert pool._idle[0].fileno() > 1023
        assert len(pids) == 1

    def test_one_too_many_waits_and_is_then_unavailable(self, make_pool: MakePool) -> None:
        pool = make_pool(size=1)
        with pool.transaction():
            began = clock.monotonic()
            with pytest.raises(errors.Unavailable, match="busy"):
                run(pool, "SELECT 1")
            assert 0.05 <= clock.monotonic() - began < 2
        assert run(pool, "SELECT 1") == 1

    def test_one_too_many_is_served_when_a_turn_is_given_back(self, make_pool: MakePool) -> None:
        pool = make_pool(size=1, timing=PATIENT)
        served: list[int] = []
        waiting = threading.Thread(target=lambda: served.append(run(pool, "SELECT 1")))
        with pool.transaction():
            waiting.start()
            waiting.join(0.05)
            assert waiting.is_alive()
            assert served == []
        waiting.join(10)
        assert served == [1]

    def test_a_failure_gives_its_turn_back(self, make_pool: MakePool) -> None:
        pool = make_pool(size=1)
        for _ in range(3):
            with pytest.raises(psycopg2.errors.SyntaxError):
                run(pool, "SELEC")
        assert run(pool, "SELECT 1") == 1


class TestLostConnections:
    def kill(self, database: Any, pid: int) -> None:
        """End a server process, and wait until it is gone."""
        assert database.execute(f"SELECT pg_terminate_backend({pid}, 5000)") == [(True,)]

    def test_an_idle_connection_that_was_killed_is_replaced(
        self, pool: Database, database: Any
    ) -> None:
        pid = backend(pool)
        self.kill(database, pid)
        assert backend(pool) != pid

    def test_one_killed_in_its_transaction_is_unavailable_once(
        self, make_pool: MakePool, database: Any
    ) -> None:
        pool = make_pool(size=1)
        pid = backend(pool)

        def work(connection: Any) -> None:
            fetch(connection, insert("5265877635"))
            self.kill(database, pid)
            fetch(connection, "SELECT 1")

        with pytest.raises(errors.Unavailable), pool.transaction() as connection:
            work(connection)
        assert companies(database) == []
        assert backend(pool) != pid

    def test_one_killed_before_its_commit_does_not_pass_for_committed(
        self, pool: Database, database: Any
    ) -> None:

        def work(connection: Any) -> None:
            fetch(connection, insert("5265877635"))
            self.kill(database, fetch(connection, "SELECT pg_backend_pid()"))

        with pytest.raises(errors.Unavailable), pool.transaction() as connection:
            work(connection)
        assert companies(database) == []

    def test_an_idle_one_that_was_lost_without_a_word_is_tried_and_replaced(
        self, pool: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pid = backend(pool)
        ours, theirs = socket.socketpair()
        os.dup2(ours.fileno(), pool._idle[0].fileno())
        ours.close()
        hangs_up = threading.Thread(target=lambda: theirs.recv(1) and theirs.close())
        hangs_up.start()
        later = clock.monotonic() + 60
        monkeypatch.setattr(clock, "monotonic", lambda: later)
        assert backend(pool) != pid
        hangs_up.join()

    def test_an_idle_one_that_is_closed_as_its_statement_comes_is_replaced(
        self, pool: Database
    ) -> None:
        """It looked alive a moment before; what was not done can be done again."""

        def pid_of(connection: Any) -> int:
            return int(fetch(connection, "SELECT pg_backend_pid()"))

        pid = pool.run(pid_of)
        ours, theirs = socket.socketpair()
        os.dup2(ours.fileno(), pool._idle[0].fileno())
        ours.close()
        hangs_up = threading.Thread(target=lambda: theirs.recv(1) and theirs.close())
        hangs_up.start()
        assert pool.run(pid_of) != pid
        hangs_up.join()

    def test_one_that_was_closed_is_replaced(self, pool: Database) -> None:
        pid = backend(pool)
        pool._idle[0].close()
        assert backend(pool) != pid

    def test_closing_the_pool_closes_its_idle_connections(self, pool: Database) -> None:
        pid = backend(pool)
        [connection] = pool._idle
        pool.close()
        assert connection.closed
        assert backend(pool) != pid


class TestNoDatabase:
    def test_a_server_that_is_not_there(self, make_pool: MakePool, tmp_path: Any) -> None:
        pool = make_pool(size=1, dsn=f"host={tmp_path} dbname=x")
        for _ in range(2):
            with pytest.raises(errors.Unavailable, match="does not answer") as caught:
                run(pool, "SELECT 1")
            assert str(tmp_path) not in caught.value.detail

    def test_a_database_that_is_not_migrated(
        self, make_pool: MakePool, empty_database: Any
    ) -> None:
        pool = make_pool(dsn=empty_database.owner_dsn)
        with pytest.raises(errors.Unavailable, match="not migrated"):
            run(pool, "SELECT nip FROM companies")

    def test_a_database_that_lacks_the_latest_column(self, pool: Database) -> None:
        with pytest.raises(errors.Unavailable, match="not migrated"):
            run(pool, "SELECT of_the_next_version FROM companies")

    def test_nothing_is_asked_for_before_the_first_transaction(self, make_pool: MakePool) -> None:
        make_pool(dsn="host=/nowhere")


class TestHangingServer:
    def test_is_not_waited_for_longer_than_the_connection_may_take(
        self, make_pool: MakePool
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            host, port = silent.getsockname()
            timing = PoolTiming(connect=0.3, wait=1, lock=1, statement=1)
            pool = make_pool(dsn=f"host={host} port={port} dbname=x sslmode=disable", timing=timing)
            began = clock.monotonic()
            with pytest.raises(errors.Unavailable, match="does not answer"):
                run(pool, "SELECT 1")
            assert 0.3 <= clock.monotonic() - began < 2
            with pytest.raises(errors.Unavailable, match="a moment ago"):
                run(pool, "SELECT 1")


class TestRetried:
    @pytest.mark.parametrize(("failures", "runs"), [(0, 1), (1, 2), (3, 4), (4, 4)])
    @pytest.mark.parametrize("sqlstate", ["40P01", "40001"])
    def test_three_times_at_most(
        self, pool: Database, database: Any, sqlstate: str, failures: int, runs: int
    ) -> None:
        seen = []

        @retried
        def work() -> None:
            seen.append(1)
            with pool.transaction() as connection:
                fetch(connection, insert("5265877635"))
                if len(seen) <= failures:
                    fetch(connection, f"DO $$ BEGIN RAISE SQLSTATE '{sqlstate}'; END $$")

        if failures < 4:
            work()
        else:
            with pytest.raises(errors.BrokenOff):
                work()
        assert len(seen) == runs
        assert companies(database) == (["5265877635"] if failures < 4 else [])

    def test_other_failures_are_not_retried(self, pool: Database) -> None:
        seen = []

        @retried
        def work() -> None:
            seen.append(1)
            run(pool, "SELEC")

        with pytest.raises(psycopg2.errors.SyntaxError):
            work()
        assert len(seen) == 1

    def test_isolation_is_not_left_to_the_database_s_default(
        self, pool: Database, database: Any
    ) -> None:
        setting = f"ALTER DATABASE {database.name} SET default_transaction_isolation"
        database.execute(f"{setting} = 'serializable'")
        try:
            assert run(pool, "SHOW transaction_isolation") == "read committed"
        finally:
            database.execute(f"{setting} TO DEFAULT")


def test_the_service_has_no_right_to_change_the_schema(pool: Database) -> None:
    for statement in ("CREATE TABLE own (x int)", "DROP TABLE companies"):
        with pytest.raises(errors.NotWritable):
            run(pool, statement)


def add(connection: Any, *, nip: str) -> str:
    """As a named query is called."""
    fetch(connection, insert(nip))
    return nip


def several(connection: Any) -> Iterator[int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        yield from (row[0] for row in cursor)


class TestOneStatement:
    def test_is_committed_by_itself(self, pool: Database, database: Any) -> None:
        assert pool.run(add, nip="5265877635") == "5265877635"
        assert companies(database) == ["5265877635"]

    def test_rows_are_all_there_when_the_connection_is_given_back(self, pool: Database) -> None:
        assert pool.rows(several) == [1, 2, 3]

    def test_has_the_limits_of_a_transaction_and_leaves_none(
        self, pool: Database, database: Any
    ) -> None:
        def limits(connection: Any) -> tuple[str, str]:
            return fetch(connection, "SHOW statement_timeout"), fetch(
                connection, "SHOW lock_timeout"
            )

        assert pool.run(limits) == ("3s", "100ms")
        [connection] = pool._idle
        assert limits(connection) == ("0", "0")
        assert connection.notices == [], "such as: SET LOCAL outside of a transaction"

    def test_that_breaks_a_rule_is_taken_back_and_the_connection_stays(
        self, pool: Database, database: Any
    ) -> None:
        pid = backend(pool)
        for _ in range(2):
            with pytest.raises(psycopg2.errors.CheckViolation):
                pool.run(add, nip="none")
        assert companies(database) == []
        assert backend(pool) == pid
