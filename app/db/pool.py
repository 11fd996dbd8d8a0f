"""A connection pool, with transactions and single statements.

It is our own because psycopg2's raises at once when it is empty, and holds its lock while it
connects: this one waits for a bounded time, and connects outside of any lock.

A transaction sets its limits together with its BEGIN, for itself alone: PgBouncer may give the
connection to somebody else afterwards. A single statement has the limits of its role, see
0010_role_limits.sql; that of a role without limits ends when we no longer wait for it.
"""

import functools
import math
import re
import select
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

import psycopg2
from psycopg2 import errorcodes, extensions, extras

from app import clock, errors, meters, telemetry
from app.db import arrays, failures, prepared
from app.db.queries import PREPARED, REPEATABLE
from app.db.queries import database as _queries

P = ParamSpec("P")
T = TypeVar("T")

Connection = Any  # psycopg2's connection; its type stubs fit neither our class nor aiosql

_RETRIES = 3
_GRACE = 1.0  # seconds that we wait beyond the server's own statement timeout
_HANG_PAUSE = 1.0  # seconds after a hang in which requests fail at once instead of waiting too
_TESTED_AFTER = 5.0  # seconds of idleness after which a connection is tested before it is used


@dataclass(frozen=True, slots=True)
class PoolTiming:
    """Longest times in seconds: to connect, to wait for a free connection, for a lock, and for a
    statement.

    The last two are set for transactions; for single statements the role's own count.
    """

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
    """PostgreSQL at `dsn`, through at most `size` connections at a time, opened when needed."""

    def __init__(self, dsn: str, *, size: int, timing: PoolTiming) -> None:
        self._dsn = dsn
        self._timing = timing
        self._turns = threading.BoundedSemaphore(size)
        meters.pool_opened(size)
        self._idle: deque[Connection] = deque()
        self._hung_until = -math.inf
        # Our statements are written for this level, whatever the database's default is.
        self._begin = (
            "BEGIN ISOLATION LEVEL READ COMMITTED;"
            f" SET LOCAL lock_timeout = {round(timing.lock * 1000)};"
            f" SET LOCAL statement_timeout = {round(timing.statement * 1000)}"
        )

    @contextmanager
    def transaction(self, opening: Any = None) -> Iterator[Connection]:
        """A transaction: committed at the end of the block, rolled back if the block raises.

        `opening`: a named query without values that is sent together with BEGIN.

        Raises Unavailable if there is no connection in time or PostgreSQL does not answer;
        BrokenOff if nothing was done and it may be tried again; NotWritable if PostgreSQL cannot
        be written to (NoRight: the role may not). Never hold a transaction across a call to KSeF.
        """
        with self._connection() as connection:
            connection.repeatable = True  # nothing is done yet
            _execute(connection, f"{self._begin}; {opening.sql}" if opening else self._begin)
            connection.repeatable = False
            yield connection
            _execute(connection, "COMMIT")

    @retried
    def run(self, query: Callable[..., Any], **values: Any) -> Any:
        """Run one named query and commit: returns its row, its value, or how many rows it wrote.

        Takes one round trip to PostgreSQL, where `transaction` takes three. Repeated as `retried`
        does; where its answer was lost only if it reads, or is one of `queries.REPEATABLE`. Raises
        what `transaction` raises.
        """
        with self._connection() as connection:
            connection.repeatable = _is_repeatable(query)
            if query in PREPARED:
                return prepared.one(connection, query, values)
            return query(connection, **values)

    @retried
    def rows(self, query: Callable[..., Iterable[Any]], **values: Any) -> list[Any]:
        """All rows of a named query that returns many; else like `run`."""
        with self._connection() as connection:
            connection.repeatable = _is_repeatable(query)
            return list(query(connection, **values))

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """Borrow a live connection; it is rolled back if the block raises."""
        if clock.monotonic() < self._hung_until:
            raise errors.Unavailable("The database did not answer a moment ago.")
        if not (self._turns.acquire(blocking=False) or self._wait_for_turn()):
            raise errors.Unavailable("The service is busy: no database connection is free.")
        try:
            connection = self._take_idle() or self._connect()
            try:
                yield connection
            finally:
                self._put_back(connection)
        except failures.HangsError as error:
            # Otherwise each statement with which a failed request cleans up would hang as long.
            self._hung_until = clock.monotonic() + _HANG_PAUSE
            telemetry.warning("the database hangs", reason=str(error))
            raise errors.Unavailable("The database does not answer.", reason=str(error)) from error
        except psycopg2.Error as error:
            unknown = error.pgcode in (None, errorcodes.CRASH_SHUTDOWN)
            if unknown and connection.closed and connection.repeatable:
                telemetry.warning("a connection to the database was lost")
                raise errors.BrokenOff("The connection to the database was lost.") from error
            if told := failures.understood(error):
                raise told from error
            raise
        finally:
            self._turns.release()

    def _wait_for_turn(self) -> bool:
        began = clock.monotonic()
        given = self._turns.acquire(timeout=self._timing.wait)
        outcome = "connected" if given else "refused"
        meters.pool_waits.labels(outcome).observe(clock.monotonic() - began)
        return given

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
        try:
            connection = psycopg2.connect(
                self._dsn,
                connection_factory=functools.partial(_Connection, patience=self._timing.connect),
                cursor_factory=extras.NamedTupleCursor,
                application_name="ksef-proxy",
            )
        except failures.HangsError as error:
            raise failures.HangsError(failures.no_connection(error, self._dsn)) from error
        except psycopg2.Error as error:
            reason = failures.no_connection(error, self._dsn)
            telemetry.warning("no connection to the database", reason=reason)
            raise errors.Unavailable("The database does not answer.", reason=reason) from error
        connection.patience = self._timing.statement + _GRACE
        connection.autocommit = True  # we send BEGIN and COMMIT ourselves, limits with BEGIN
        return connection

    def _put_back(self, connection: Connection) -> None:
        """Roll back what was not committed; a connection that cannot even do that is closed."""
        try:
            if connection.info.transaction_status != extensions.TRANSACTION_STATUS_IDLE:
                _execute(connection, "ROLLBACK")
        except psycopg2.Error:
            connection.close()
        else:
            connection.idle_since = clock.monotonic()
            self._idle.append(connection)

    def now(self) -> datetime:
        """The present moment by the database's clock, which all replicas share."""
        moment: datetime = self.run(_queries.database_now)
        return moment

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()


class _Connection(extensions.connection):
    """A connection that waits for each answer of the server for at most `patience` seconds.

    `idle_since`: since when it has been unused, on `clock.monotonic()`; `repeatable`: whether the
    statement on its way may be sent again if its answer is lost; `planned`: see `prepared.one`.
    """

    idle_since = 0.0
    repeatable = False

    def __init__(self, dsn: str, *, patience: float) -> None:
        self.patience = patience
        self.planned: dict[str, float] = {}
        super().__init__(dsn)


def _wait(connection: extensions.connection) -> None:
    """Wait for the server's answer with a timeout, which libpq itself does not have.

    psycopg2 calls this instead of blocking in libpq, and closes the connection if it raises.
    """
    if not isinstance(connection, _Connection):
        extras.wait_select(connection)
        return
    until = clock.monotonic() + connection.patience
    while (state := connection.poll()) != extensions.POLL_OK:
        event = select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        left = until - clock.monotonic()
        if left <= 0 or not _polled(connection, event, left):
            raise failures.HangsError("no answer in time")


extensions.set_wait_callback(_wait)
extensions.register_adapter(list, arrays.adapted)


def _polled(connection: Connection, event: int, seconds: float) -> bool:
    """Whether the event happens within that time.

    By `poll`, since `select` refuses file descriptors from 1,024 up.
    """
    poller = select.poll()
    poller.register(connection.fileno(), event)
    return bool(poller.poll(math.ceil(seconds * 1000)))


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
        except failures.HangsError:
            raise
        except psycopg2.Error:
            return False
    return True


def _execute(connection: Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def _is_repeatable(query: Any) -> bool:
    return query in REPEATABLE or _only_reads(getattr(query, "sql", ""))


@functools.cache
def _only_reads(sql: str) -> bool:
    """Whether a statement writes nothing and locks nothing, by the words in it."""
    writes = r"\b(INSERT|UPDATE|DELETE|MERGE|FOR (KEY )?SHARE|nextval|set_config|pg_\w*lock\w*)\b"
    return bool(re.match(r"(SELECT|WITH)\b", sql)) and not re.search(writes, sql, re.IGNORECASE)
