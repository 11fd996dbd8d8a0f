"""Connections, transactions and single statements, on a real PostgreSQL."""

import os
import resource
import select
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from app import clock, errors
from app.db.pool import Database, PoolTiming, retried
from app.db.queries import leases, outages, sessions, users
from app.settings import Timing

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
        # As the connection was made, see `DatabaseServer.dsn`.
        assert fetch(connection, "SHOW statement_timeout") == "3s"
        assert fetch(connection, "SHOW lock_timeout") == "1500ms"

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


class Relay(socketserver.ThreadingTCPServer):
    """Stands between the pool and PostgreSQL. `lose()`: it hangs up instead of passing on the
    answer that PostgreSQL gives next."""

    def __init__(self, dsn: str) -> None:
        super().__init__(("127.0.0.1", 0), RelayedConnection)
        with closing(psycopg2.connect(dsn)) as connection:
            host, port = connection.info.host, connection.info.port
        self.to_unix, self.to = host.startswith("/"), (host, port)
        if self.to_unix:
            self.to = f"{host}/.s.PGSQL.{port}"
        host, port = self.server_address
        self.dsn = make_dsn(dsn, host=host, port=port, sslmode="disable", gssencmode="disable")
        self.losing = threading.Event()

    def lose(self) -> None:
        self.losing.set()


class RelayedConnection(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX if self.server.to_unix else socket.AF_INET) as server:
            server.connect(self.server.to)
            other = {self.request: server, server: self.request}
            while True:
                for ready in select.select(list(other), [], [])[0]:
                    passed = ready.recv(65536)
                    if not passed:
                        return
                    if ready is server and self.server.losing.is_set():
                        self.server.losing.clear()
                        return
                    other[ready].sendall(passed)


@pytest.fixture
def relay(database: Any) -> Iterator[Relay]:
    with Relay(database.service_dsn) as relay:
        serving = threading.Thread(target=relay.serve_forever, args=(0.01,))
        serving.start()
        yield relay
        relay.shutdown()
        serving.join()


@pytest.fixture
def relayed(relay: Relay, make_pool: MakePool) -> Database:
    """A pool that reaches PostgreSQL through the relay, and has a connection already."""
    pool = make_pool(dsn=relay.dsn)
    run(pool, "SELECT")
    return pool


class TestLostAnswers:
    """What PostgreSQL did is done, and whoever asked for it does not know."""

    def test_a_read_is_repeated(self, relayed: Database, relay: Relay) -> None:
        run(relayed, insert("5265877635"))
        relay.lose()
        assert relayed.run(users.get_company, nip="5265877635").nip == "5265877635"
        relay.lose()
        assert relayed.rows(outages.all_known) == []
        assert not relay.losing.is_set()

    def test_a_write_is_not(self, relayed: Database, relay: Relay, database: Any) -> None:
        relay.lose()
        with pytest.raises(errors.Unavailable) as caught:
            relayed.run(outages.count_failure, environment="test")
        assert not isinstance(caught.value, errors.BrokenOff)
        assert database.execute("SELECT consecutive_failures FROM outages") == [(1,)]

    def test_a_lease_that_was_taken_is_ours(
        self, relayed: Database, relay: Relay, database: Any
    ) -> None:
        lease = {"name": "x", "holder": "00000000-0000-0000-0000-000000000001"}
        relay.lose()
        assert relayed.run(leases.take_lease, **lease, seconds=60.0) == lease["holder"]
        relay.lose()
        assert relayed.run(leases.extend_lease, **lease, seconds=60.0) == lease["holder"]
        other = {**lease, "holder": "00000000-0000-0000-0000-000000000002"}
        assert relayed.run(leases.take_lease, **other, seconds=60.0) is None
        relay.lose()
        relayed.run(leases.release_lease, **lease)
        assert database.execute("SELECT count(*) FROM leases") == [(0,)]

    def test_a_transaction_that_has_only_begun_may_be_repeated(
        self, relayed: Database, relay: Relay, database: Any
    ) -> None:
        relay.lose()
        retried(run)(relayed, insert("5265877635"))
        assert companies(database) == ["5265877635"]

    def test_a_commit_is_not_repeated(self, relayed: Database, relay: Relay, database: Any) -> None:
        @retried
        def work() -> None:
            with relayed.transaction() as connection:
                outages.count_failure(connection, environment="test")
                relay.lose()

        with pytest.raises(errors.Unavailable):
            work()
        assert database.execute("SELECT consecutive_failures FROM outages") == [(1,)]


class TestNoDatabase:
    def test_a_server_that_is_not_there(self, make_pool: MakePool, tmp_path: Any) -> None:
        pool = make_pool(size=1, dsn=f"host={tmp_path} dbname=x")
        for _ in range(2):
            with pytest.raises(errors.Unavailable, match="does not answer") as caught:
                run(pool, "SELECT 1")
            assert str(tmp_path) not in caught.value.detail

    def test_operators_are_told_the_reason(
        self, make_pool: MakePool, database: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        dsn = make_dsn(database.owner_dsn, dbname="no_such_database", password="Sec-ret")
        with pytest.raises(errors.Unavailable) as caught:
            run(make_pool(dsn=dsn), "SELECT 1")
        [record] = caplog.records
        reason = record.fields["reason"]  # type: ignore[attr-defined]
        assert 'database "no_such_database" does not exist' in reason
        assert " user=" in reason
        assert reason.startswith("host=")
        assert "Sec-ret" not in reason
        assert caught.value.detail == "The database does not answer."
        assert caught.value.reason == reason

    @pytest.mark.parametrize(
        "password", ["S3c@ret", "S3c/ret", "S3c:ret?x", "S3c#r%40et", "S3c ret"]
    )
    @pytest.mark.parametrize(
        "shape", ["postgresql://me:{}@[::1]:1/x", "host='{}", "postgres:/me:{}@h"]
    )
    def test_no_part_of_a_password_is_told(
        self,
        make_pool: MakePool,
        caplog: pytest.LogCaptureFixture,
        shape: str,
        password: str,
    ) -> None:
        """Typed as it is into a URL, parts of it pass for a host, a port or a database."""
        with pytest.raises(errors.Unavailable):
            run(make_pool(dsn=shape.format(password)), "SELECT 1")
        [record] = caplog.records
        reason = record.fields["reason"]  # type: ignore[attr-defined]
        assert reason
        assert not any(part in reason for part in ("S3c", "ret", "r@et", "r%40et"))

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


@pytest.mark.parametrize("statement", ["CREATE TABLE own (x int)", "DROP TABLE companies"])
def test_the_service_has_no_right_to_change_the_schema(pool: Database, statement: str) -> None:
    with pytest.raises(errors.NotWritable):
        run(pool, statement)


def test_a_missing_right_is_told_with_the_role(
    pool: Database, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(errors.NoRight) as caught:
        run(pool, "SELECT FROM pg_authid")
    assert "written" not in caught.value.detail
    [record] = caplog.records
    [(me,)] = database.execute("SELECT session_user")
    assert caught.value.reason == f"permission denied for table pg_authid (role {me})"
    assert record.message == "the role lacks a right in the database"
    assert record.fields == {  # type: ignore[attr-defined]
        "kind": "InsufficientPrivilege",
        "sqlstate": "42501",
        "role": me,
        "reason": "permission denied for table pg_authid",
    }


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("SET TRANSACTION READ ONLY", "cannot execute INSERT in a read-only transaction"),
        ("SET LOCAL statement_timeout = 1", "canceling statement due to statement timeout"),
    ],
)
def test_operators_are_told_what_postgresql_says(
    pool: Database, caplog: pytest.LogCaptureFixture, statement: str, reason: str
) -> None:
    def work() -> None:
        with pool.transaction() as connection:
            fetch(connection, statement)
            fetch(connection, "SELECT pg_sleep(0.1)")
            fetch(connection, insert("5265877635"))

    with pytest.raises(errors.Unavailable) as caught:
        work()
    assert caught.value.reason == reason
    assert reason not in caught.value.detail
    [record] = caplog.records
    assert record.fields["reason"] == reason  # type: ignore[attr-defined]


def test_the_role_s_limits_are_those_of_transactions(database: Any) -> None:
    [(limits,)] = database.execute("SELECT rolconfig FROM pg_roles WHERE rolname = 'ksef_proxy'")
    assert set(limits) >= {
        f"lock_timeout={round(Timing().lock_timeout * 1000)}ms",
        f"statement_timeout={round(Timing().statement_timeout)}s",
    }


def add(connection: Any, *, nip: str) -> str:
    """As a named query is called."""
    fetch(connection, insert(nip))
    return nip


def several(connection: Any) -> Iterator[int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        yield from (row[0] for row in cursor)


def limits(connection: Any) -> tuple[str, str]:
    return fetch(connection, "SHOW statement_timeout"), fetch(connection, "SHOW lock_timeout")


class TestOneStatement:
    def test_is_committed_by_itself(self, pool: Database, database: Any) -> None:
        assert pool.run(add, nip="5265877635") == "5265877635"
        assert companies(database) == ["5265877635"]

    def test_rows_are_all_there_when_the_connection_is_given_back(self, pool: Database) -> None:
        assert pool.rows(several) == [1, 2, 3]

    def test_has_the_limits_of_its_role(self, make_pool: MakePool, database: Any) -> None:
        dsn = make_dsn(database.owner_dsn, options="-c lock_timeout=70 -c statement_timeout=80")
        pool = make_pool(dsn=dsn)

        def sleep(connection: Any) -> None:
            fetch(connection, "SELECT pg_sleep(5)")

        assert pool.run(limits) == ("80ms", "70ms")
        with pool.transaction() as connection:
            assert limits(connection) == ("3s", "100ms")
        assert pool.run(limits) == ("80ms", "70ms")
        with pytest.raises(errors.Unavailable, match="does not answer"):
            pool.run(sleep)
        assert pool.run(limits), "the pool does not take that for a hanging server"

    def test_is_not_waited_for_without_end_where_the_role_has_none(
        self, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.db.pool._GRACE", 0.1)
        pool = make_pool(timing=PoolTiming(connect=2, wait=1, lock=1, statement=0.1))
        began = clock.monotonic()
        with pytest.raises(errors.Unavailable, match="does not answer"):
            pool.run(lambda connection: fetch(connection, "SELECT pg_sleep(3)"))
        assert clock.monotonic() - began < 2

    def test_that_breaks_a_rule_is_taken_back_and_the_connection_stays(
        self, pool: Database, database: Any
    ) -> None:
        pid = backend(pool)
        for _ in range(2):
            with pytest.raises(psycopg2.errors.CheckViolation):
                pool.run(add, nip="none")
        assert companies(database) == []
        assert backend(pool) == pid


def look(pool: Database) -> Any:
    """A statement whose plan PostgreSQL keeps."""
    return pool.run(
        sessions.look,
        company_nip="5265877635",
        environment="test",
        reference_number="20260915-SO-00000001A1-0000000001-01",
        form="",
        tags=["it's 100 %"],
        look_every=60.0,
    )


class TestAPlanThatIsKept:
    """`planned`: how often the only connection's statements were planned."""

    @pytest.fixture
    def pool(self, make_pool: MakePool, database: Any) -> Database:
        database.execute(
            "INSERT INTO outage_simulations (environment, message) VALUES ('test', 'x')"
        )
        return make_pool(size=1)

    @pytest.fixture
    def planned(self, pool: Database) -> Callable[[], int]:
        kept: list[Any] = []

        def tell_plans(connection: Any) -> None:
            kept.append(connection)
            fetch(connection, "SET debug_print_plan = on; SET client_min_messages = log")

        pool.run(tell_plans)
        return lambda: sum("plan:" in notice for notice in kept[0].notices)

    def test_serves_many(self, pool: Database, planned: Callable[[], int]) -> None:
        assert all(look(pool).is_simulated for _ in range(9))
        assert planned() == 1

    def test_is_made_anew_after_a_while(
        self, pool: Database, planned: Callable[[], int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The tables may have grown."""
        now = clock.monotonic()
        found = []
        for seconds in range(0, 28, 4):
            monkeypatch.setattr(clock, "monotonic", lambda at=now + seconds: at)
            assert look(pool).is_simulated
            found.append(planned())
        assert found == [1, 1, 1, 2, 2, 2, 3]

    def test_may_be_lost(self, pool: Database, planned: Callable[[], int]) -> None:
        """A pooler gives the next transaction another of the server's connections."""
        look(pool)
        pool.run(lambda connection: fetch(connection, "DEALLOCATE ALL"))
        assert all(look(pool).is_simulated for _ in range(3))
        assert planned() == 2

    def test_may_be_there_already(self, pool: Database, planned: Callable[[], int]) -> None:
        look(pool)
        pool.run(lambda connection: connection.planned.clear())
        assert all(look(pool).is_simulated for _ in range(3))
        assert planned() == 2  # as old as nobody knows
