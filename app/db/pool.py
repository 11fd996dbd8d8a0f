"""Connections, transactions and single statements.

A pool of our own, because psycopg2's raises at once when it is empty and connects while it holds
its lock: this one waits for a bounded time and connects outside of any lock.

Limits of time are set for the transaction alone (`SET LOCAL`), so that a connection pooler between
us and PostgreSQL may give the connection to somebody else afterwards.
"""

import functools
import math
import select
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import psycopg2
import psycopg2.errors
import psycopg2.extras
from psycopg2 import extensions

from app import clock, errors, meters, telemetry

P = ParamSpec("P")
T = TypeVar("T")

_NOT_WRITABLE = (
    psycopg2.errors.ReadOnlySqlTransaction,
    psycopg2.errors.DiskFull,
    psycopg2.errors.InsufficientPrivilege,
    psycopg2.errors.LockNotAvailable,  # somebody works on a table or a row, and reading may go on
)

Connection = Any  # psycopg2's connection; its type stubs fit neither our cursors nor aiosql

_RETRIES = 3
_GRACE = 1.0  # seconds for which the server's own timeouts are waited for
_HANG_PAUSE = 1.0  # seconds for which a server that hung is not waited for again
_TRIED_AFTER = 5.0  # seconds of idleness after which a connection is tried before it is used
_BROKEN_OFF = (
    psycopg2.errors.DeadlockDetected,
    psycopg2.errors.SerializationFailure,
    psycopg2.errors.AdminShutdown,  # most often said to a connection that was idle at the time
    psycopg2.errors.CrashShutdown,
)


@dataclass(frozen=True, slots=True)
class PoolTiming:
    """Seconds: for a connection to be made, for a turn at one, for a lock, for a statement."""

    connect: float
    wait: float
    lock: float
    statement: float


def retried(work: Callable[P, T]) -> Callable[P, T]:
    """Do the work again, up to three times, where PostgreSQL broke its transaction off (BrokenOff).

    For work that is nothing but one transaction, so that what was broken off left no trace.
    """

    @functools.wraps(work)
    def do(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(_RETRIES):
            try:
                return work(*args, **kwargs)
            except errors.BrokenOff:
                continue
        return work(*args, **kwargs)

    return do


class Database:
    """PostgreSQL at `dsn`, through at most `size` connections at a time."""

    def __init__(self, dsn: str, *, size: int, timing: PoolTiming) -> None:
        self._dsn = dsn
        self._timing = timing
        self._turns = threading.BoundedSemaphore(size)
        meters.pool_opened(size)
        self._idle: deque[Connection] = deque()
        self._hung_until = -math.inf
        self._limits = (
            f"SET LOCAL lock_timeout = {round(timing.lock * 1000)};"
            f" SET LOCAL statement_timeout = {round(timing.statement * 1000)}"
        )

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction: committed at the end of the block, rolled back when it raises.

        Raises Unavailable when there is no connection, no turn at one in time, or no answer of
        PostgreSQL; BrokenOff where it ended this transaction for reasons of its own; NotWritable
        where it is there and takes nothing. Never hold one across a call to KSeF.
        """
        with self._connection() as connection:
            # Whatever the database's default is: our statements are written for this level.
            _execute(connection, f"BEGIN ISOLATION LEVEL READ COMMITTED; {self._limits}")
            yield connection
            _execute(connection, "COMMIT")

    @retried
    def run(self, query: Callable[..., Any], **values: Any) -> Any:
        """What a named query gives (a row, a value, how many rows it wrote), committed.

        One message to PostgreSQL and one back, where a transaction takes three. Raises what
        `transaction` raises.
        """
        with self._connection() as connection, connection.limited(self._limits):
            return query(connection, **values)

    @retried
    def rows(self, query: Callable[..., Iterable[Any]], **values: Any) -> list[Any]:
        """All rows of a named query that gives many; else as `run`."""
        with self._connection() as connection, connection.limited(self._limits):
            return list(query(connection, **values))

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """A live connection, rolled back when the block raises."""
        if clock.monotonic() < self._hung_until:
            raise errors.Unavailable("The database did not answer a moment ago.")
        if not (self._turns.acquire(blocking=False) or self._turn_in_time()):
            raise errors.Unavailable("The service is busy: no database connection is free.")
        try:
            yield from self._borrowed()
        except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn) as error:
            telemetry.warning("the database is not migrated", sqlstate=error.pgcode)
            raise errors.Unavailable("The database is not migrated.") from error
        except _HangsError as error:
            # What a request tidies up after a failure would each time wait for as long again.
            self._hung_until = clock.monotonic() + _HANG_PAUSE
            telemetry.warning("the database hangs")
            raise errors.Unavailable("The database does not answer.") from error
        except _BROKEN_OFF as error:
            telemetry.warning("the database broke a transaction off", sqlstate=error.pgcode)
            raise errors.BrokenOff("The database could not do that beside other work.") from error
        except _NOT_WRITABLE as error:
            telemetry.warning("the database takes nothing", sqlstate=error.pgcode)
            raise errors.NotWritable("The database cannot be written to.") from error
        except (psycopg2.OperationalError, psycopg2.InternalError) as error:
            telemetry.warning("database failure", kind=type(error).__name__, sqlstate=error.pgcode)
            raise errors.Unavailable("The database does not answer.") from error
        finally:
            self._turns.release()

    def _turn_in_time(self) -> bool:
        began = clock.monotonic()
        given = self._turns.acquire(timeout=self._timing.wait)
        outcome = "connected" if given else "refused"
        meters.pool_waits.labels(outcome).observe(clock.monotonic() - began)
        return given

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
            connection_factory=functools.partial(_Connection, patience=self._timing.connect),
            cursor_factory=_Cursor,
            application_name="ksef-proxy",
        )
        connection.patience = self._timing.statement + _GRACE
        connection.autocommit = True  # BEGIN and COMMIT are sent by us, BEGIN with its settings
        return connection

    def _roll_back(self, connection: Connection) -> None:
        try:
            if connection.info.transaction_status != extensions.TRANSACTION_STATUS_IDLE:
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


class _HangsError(psycopg2.OperationalError):
    """The server holds the connection and says nothing."""


class _Connection(extensions.connection):
    """One that waits for an answer of the server for at most `patience` seconds.

    `idle_since`: a moment of `clock.monotonic()`.
    """

    idle_since = 0.0
    before_each = ""

    def __init__(self, dsn: str, *, patience: float) -> None:
        self.patience = patience
        super().__init__(dsn)

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
        if before := self.connection.before_each:
            query = before + query
        super().execute(query, vars)  # type: ignore[no-untyped-call]


def _wait(connection: Any) -> None:
    """Wait for the server's answer: libpq itself would wait for one that hangs for ever.

    psycopg2 closes the connection where this raises.
    """
    until = clock.monotonic() + getattr(connection, "patience", math.inf)
    while (state := connection.poll()) != extensions.POLL_OK:
        left = until - clock.monotonic()
        if left <= 0:
            raise _HangsError("no answer in time")
        event = select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        _polled(connection, event, None if left == math.inf else math.ceil(left * 1000))


extensions.set_wait_callback(_wait)


def _polled(connection: Any, event: int, milliseconds: int | None) -> bool:
    """Whether it happens in time; None: however long that takes.

    Not by `select`, which knows no descriptor above 1023.
    """
    poller = select.poll()
    poller.register(connection.fileno(), event)
    return bool(poller.poll(milliseconds))


def _is_alive(connection: Connection) -> bool:
    """Whether the server has not hung up: an idle connection has nothing to read until it has.

    What lies between may drop a connection without a word, so that one idle for long is tried.
    """
    if connection.closed or _polled(connection, select.POLLIN, 0):
        return False
    if clock.monotonic() - connection.idle_since > _TRIED_AFTER:
        try:
            _execute(connection, "SELECT")
        except _HangsError:
            raise
        except psycopg2.Error:
            return False
    return True


def _execute(connection: Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
