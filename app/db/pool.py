"""Connections, transactions and single statements.

A pool of our own, because psycopg2's raises at once when it is empty and connects while it holds
its lock: this one waits for a bounded time and connects outside of any lock.

Limits of time are set for the transaction alone (`SET LOCAL`), so that a connection pooler between
us and PostgreSQL may give the connection to somebody else afterwards.
"""

import select
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extras
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from app import clock, errors, telemetry

_TRIED_AFTER = 5.0  # seconds

Connection = Any  # psycopg2's connection; its type stubs fit neither our cursors nor aiosql


@dataclass(frozen=True, slots=True)
class PoolTiming:
    """Seconds: for a connection to be made, for a turn at one, for a lock, for a statement."""

    connect: float
    wait: float
    lock: float
    statement: float


class _Connection(psycopg2.extensions.connection):
    """`idle_since`: a moment of `clock.monotonic()`."""

    idle_since = 0.0
    before_each = ""

    @contextmanager
    def limited(self, settings: str) -> Iterator[None]:
        """Settings are sent in one message with each statement, and hold for its transaction."""
        self.before_each = f"{settings};\n"
        try:
            yield
        finally:
            self.before_each = ""


class _Cursor(psycopg2.extras.NamedTupleCursor):
    connection: _Connection

    def execute(self, query: Any, vars: Any = None) -> None:
        super().execute(self.connection.before_each + query, vars)  # type: ignore[no-untyped-call]


class Database:
    """PostgreSQL at `dsn`, through at most `size` connections at a time."""

    def __init__(self, dsn: str, *, size: int, timing: PoolTiming) -> None:
        self._dsn = dsn
        self._timing = timing
        self._turns = threading.BoundedSemaphore(size)
        self._idle: deque[Connection] = deque()
        self._limits = (
            f"SET LOCAL lock_timeout = {round(timing.lock * 1000)};"
            f" SET LOCAL statement_timeout = {round(timing.statement * 1000)}"
        )

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction: committed at the end of the block, rolled back when it raises.

        Raises Unavailable when there is no connection, no turn at one in time, or PostgreSQL
        breaks off. Never hold one across a call to KSeF.
        """
        with self._connection() as connection:
            _execute(connection, f"BEGIN; {self._limits}")
            yield connection
            _execute(connection, "COMMIT")

    def run(self, query: Callable[..., Any], **values: Any) -> Any:
        """What a named query gives (a row, a value, how many rows it wrote), committed.

        One message to PostgreSQL and one back, where a transaction takes three. Raises what
        `transaction` raises.
        """
        with self._connection() as connection, connection.limited(self._limits):
            return query(connection, **values)

    def rows(self, query: Callable[..., Iterable[Any]], **values: Any) -> list[Any]:
        """All rows of a named query that gives many; else as `run`."""
        with self._connection() as connection, connection.limited(self._limits):
            return list(query(connection, **values))

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """A live connection, rolled back when the block raises."""
        if not self._turns.acquire(timeout=self._timing.wait):
            raise errors.Unavailable("The service is busy: no database connection is free.")
        try:
            yield from self._borrowed()
        except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn) as error:
            telemetry.warning("the database is not migrated", sqlstate=error.pgcode)
            raise errors.Unavailable("The database is not migrated.") from error
        except (psycopg2.OperationalError, psycopg2.InternalError) as error:  # Internal: read-only
            telemetry.warning("database failure", kind=type(error).__name__, sqlstate=error.pgcode)
            raise errors.Unavailable("The database does not answer.") from error
        finally:
            self._turns.release()

    def _borrowed(self) -> Iterator[Connection]:
        connection = self._take_idle() or self._connect()
        try:
            yield connection
        except BaseException:
            self._roll_back(connection)
            raise
        self._put_back(connection)

    def _take_idle(self) -> Connection | None:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if _is_alive(connection):
                return connection
            connection.close()
        return None

    def _connect(self) -> Connection:
        connection = psycopg2.connect(
            self._dsn,
            connect_timeout=max(2, round(self._timing.connect)),  # libpq takes no less than 2 s
            connection_factory=_Connection,
            cursor_factory=_Cursor,
            application_name="ksef-proxy",
        )
        connection.autocommit = True  # BEGIN and COMMIT are sent by us, BEGIN with its settings
        return connection

    def _roll_back(self, connection: Connection) -> None:
        try:
            if connection.info.transaction_status != TRANSACTION_STATUS_IDLE:
                _execute(connection, "ROLLBACK")
        except psycopg2.Error:
            connection.close()
        else:
            self._put_back(connection)

    def _put_back(self, connection: Connection) -> None:
        connection.idle_since = clock.monotonic()
        self._idle.append(connection)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()


def _is_alive(connection: Connection) -> bool:
    """Whether the server has not hung up: an idle connection has nothing to read until it has.

    What lies between may drop a connection without a word, so that one idle for long is tried.
    """
    if connection.closed or select.select([connection.fileno()], [], [], 0)[0]:
        return False
    if clock.monotonic() - connection.idle_since > _TRIED_AFTER:
        try:
            _execute(connection, "SELECT")
        except psycopg2.Error:
            return False
    return True


def _execute(connection: Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
