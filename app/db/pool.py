"""A connection pool, with transactions and single statements.

It is our own because psycopg2's raises at once when it is empty, and holds its lock while it
connects: this one waits for a bounded time and connects outside of any lock.

Timeouts are set for each transaction alone (`SET LOCAL`), so that a connection pooler between us
and PostgreSQL may give the connection to somebody else afterwards.
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
    psycopg2.errors.LockNotAvailable,  # somebody holds a table or a row; reading may still work
)

Connection = Any  # psycopg2's connection; its type stubs fit neither our cursors nor aiosql

_RETRIES = 3
_GRACE = 1.0  # seconds that we wait beyond the server's own statement timeout
_HANG_PAUSE = 1.0  # seconds after a hang in which requests fail at once instead of waiting too
_TESTED_AFTER = 5.0  # seconds of idleness after which a connection is tested before it is used


class _StaleError(psycopg2.OperationalError):
    """The server closed an idle connection while its next statement was on the way."""


_BROKEN_OFF = (
    psycopg2.errors.DeadlockDetected,
    psycopg2.errors.SerializationFailure,
    psycopg2.errors.AdminShutdown,  # usually seen on a connection that was idle during a restart
    psycopg2.errors.CrashShutdown,
    _StaleError,
)
# Exactly these classes: a subclass of them carries an error code of the server.
_LOST = (psycopg2.OperationalError, psycopg2.InterfaceError)


@dataclass(frozen=True, slots=True)
class PoolTiming:
    """Longest times in seconds: to connect, to wait for a free connection, for a lock, and for a
    statement."""

    connect: float
    wait: float
    lock: float
    statement: float


def retried(work: Callable[P, T]) -> Callable[P, T]:
    """A decorator: repeat the work, up to three times, if PostgreSQL aborts its transaction.

    Only for work that consists of a single transaction, so that an aborted one leaves no trace.
    Raises BrokenOff if the last attempt is aborted too.
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
        """A transaction: committed at the end of the block, rolled back if the block raises.

        Raises Unavailable if there is no connection in time or PostgreSQL does not answer;
        BrokenOff if it aborted the transaction; NotWritable if it cannot be written to.
        Never hold a transaction across a call to KSeF.
        """
        with self._connection() as connection:
            # Our statements are written for this level, whatever the database's default is.
            _execute(connection, f"BEGIN ISOLATION LEVEL READ COMMITTED; {self._limits}")
            yield connection
            _execute(connection, "COMMIT")

    @retried
    def run(self, query: Callable[..., Any], **values: Any) -> Any:
        """Run one named query and commit: returns its row, its value, or how many rows it wrote.

        Takes one round trip to PostgreSQL, where `transaction` takes three. Repeated as `retried`
        does; raises what `transaction` raises.
        """
        with self._connection() as connection, connection.limited(self._limits):
            return query(connection, **values)

    @retried
    def rows(self, query: Callable[..., Iterable[Any]], **values: Any) -> list[Any]:
        """All rows of a named query that returns many; else like `run`."""
        with self._connection() as connection, connection.limited(self._limits):
            return list(query(connection, **values))

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """Borrow a live connection; it is rolled back if the block raises."""
        if clock.monotonic() < self._hung_until:
            raise errors.Unavailable("The database did not answer a moment ago.")
        if not (self._turns.acquire(blocking=False) or self._wait_for_turn()):
            raise errors.Unavailable("The service is busy: no database connection is free.")
        try:
            yield from self._borrowed()
        except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn) as error:
            telemetry.warning("the database is not migrated", sqlstate=error.pgcode)
            raise errors.Unavailable("The database is not migrated.") from error
        except _HangsError as error:
            # Otherwise each statement with which a failed request cleans up would hang as long.
            self._hung_until = clock.monotonic() + _HANG_PAUSE
            telemetry.warning("the database hangs")
            raise errors.Unavailable("The database does not answer.") from error
        except _BROKEN_OFF as error:
            telemetry.warning("the database aborted a transaction", sqlstate=error.pgcode)
            raise errors.BrokenOff("The database aborted a transaction.") from error
        except _NOT_WRITABLE as error:
            telemetry.warning("the database cannot be written to", sqlstate=error.pgcode)
            raise errors.NotWritable("The database cannot be written to.") from error
        except (psycopg2.OperationalError, psycopg2.InternalError) as error:
            telemetry.warning("database failure", kind=type(error).__name__, sqlstate=error.pgcode)
            raise errors.Unavailable("The database does not answer.") from error
        finally:
            self._turns.release()

    def _wait_for_turn(self) -> bool:
        began = clock.monotonic()
        given = self._turns.acquire(timeout=self._timing.wait)
        outcome = "connected" if given else "refused"
        meters.pool_waits.labels(outcome).observe(clock.monotonic() - began)
        return given

    def _borrowed(self) -> Iterator[Connection]:
        connection = self._take_idle() or self._connect()
        try:
            yield connection
        except BaseException as error:
            self._roll_back(connection)
            if connection.closed and not connection.answered and type(error) in _LOST:
                raise _StaleError from error
            raise
        self._put_back(connection)

    def _take_idle(self) -> Connection | None:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if _is_alive(connection):
                connection.answered = False
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
        connection.autocommit = True  # we send BEGIN and COMMIT ourselves, settings with BEGIN
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
    """The server does not answer on an open connection."""


class _Connection(extensions.connection):
    """A connection that waits for each answer of the server for at most `patience` seconds.

    `idle_since`: since when it has been unused, on `clock.monotonic()`; `answered`: whether the
    server has answered since then; `before_each`: SQL that is sent before each statement, see
    `limited`.
    """

    idle_since = 0.0
    answered = True
    before_each = ""

    def __init__(self, dsn: str, *, patience: float) -> None:
        self.patience = patience
        super().__init__(dsn)

    @contextmanager
    def limited(self, settings: str) -> Iterator[None]:
        """Send these settings with each statement of the block, in the same message.

        Both run in one implicit transaction, for which the settings hold.
        """
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
        self.connection.answered = True


def _wait(connection: Any) -> None:
    """Wait for the server's answer with a timeout, which libpq itself does not have.

    psycopg2 calls this instead of blocking in libpq, and closes the connection if it raises.
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
    """Whether the event happens within that time (None: wait for it).

    By `poll`, since `select` refuses file descriptors from 1,024 up.
    """
    poller = select.poll()
    poller.register(connection.fileno(), event)
    return bool(poller.poll(milliseconds))


def _is_alive(connection: Connection) -> bool:
    """Whether an idle connection can be used.

    It has nothing to read unless the server has closed it. A firewall or pooler in between may have
    dropped it without notice, so one that was idle for long is tested with a statement.
    """
    if connection.closed or _polled(connection, select.POLLIN, 0):
        return False
    if clock.monotonic() - connection.idle_since > _TESTED_AFTER:
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
