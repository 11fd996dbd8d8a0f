"""Connections and transactions.

A pool of our own, because psycopg2's raises at once when it is empty and connects while it holds
its lock: this one waits for a bounded time and connects outside of any lock.
"""

import select
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extras

from app import clock, errors, meters, telemetry

Connection = Any  # psycopg2's connection; its type stubs fit neither our cursors nor aiosql


@dataclass(frozen=True, slots=True)
class PoolTiming:
    """Seconds: for a connection to be made, for a turn at one, for a lock, for a statement."""

    connect: float
    wait: float
    lock: float
    statement: float


class Database:
    """PostgreSQL at `dsn`, through at most `size` connections at a time."""

    def __init__(self, dsn: str, *, size: int, timing: PoolTiming) -> None:
        self._dsn = dsn
        self._timing = timing
        self._turns = threading.BoundedSemaphore(size)
        meters.pool_opened(size)
        self._idle: deque[Connection] = deque()
        self._shared = threading.local()
        self._begin = (
            f"BEGIN; SET LOCAL lock_timeout = {round(timing.lock * 1000)};"
            f" SET LOCAL statement_timeout = {round(timing.statement * 1000)}"
        )

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction: committed at the end of the block, rolled back when it raises.

        Raises Unavailable when there is no connection, no turn at one in time, or PostgreSQL
        breaks off. Never hold one across a call to KSeF.
        """
        shared = getattr(self._shared, "connection", None)
        if shared is not None:
            yield shared
            return
        yield from self._new_transaction()

    @contextmanager
    def one_transaction(self) -> Iterator[None]:
        """All transactions of this thread inside of the block are one: three round trips less each.

        For what is answered from the database alone.
        """
        with self.transaction() as connection:
            self._shared.connection = connection
            try:
                yield
            finally:
                self._shared.connection = None

    def _new_transaction(self) -> Iterator[Connection]:
        if not (self._turns.acquire(blocking=False) or self._turn_in_time()):
            raise errors.Unavailable("The service is busy: no database connection is free.")
        try:
            yield from self._in_transaction()
        except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn) as error:
            telemetry.warning("the database is not migrated", sqlstate=error.pgcode)
            raise errors.Unavailable("The database is not migrated.") from error
        except (psycopg2.OperationalError, psycopg2.InternalError) as error:  # Internal: read-only
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

    def _in_transaction(self) -> Iterator[Connection]:
        connection = self._begun()
        try:
            yield connection
            with connection.cursor() as cursor:
                cursor.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise
        self._idle.append(connection)

    def _begun(self) -> Connection:
        """A connection with its transaction begun; one that died while idle is replaced once."""
        connection = self._take_idle()
        if connection:
            try:
                self._begin_on(connection)
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                connection.close()
            else:
                return connection
        connection = self._connect()
        self._begin_on(connection)
        return connection

    def _begin_on(self, connection: Connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute(self._begin)

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
            cursor_factory=psycopg2.extras.NamedTupleCursor,
            application_name="ksef-proxy",
        )
        connection.autocommit = True  # BEGIN and COMMIT are sent by us, BEGIN with its settings
        return connection

    def _roll_back(self, connection: Connection) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute("ROLLBACK")
        except psycopg2.Error:
            connection.close()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()


def _is_alive(connection: Connection) -> bool:
    """Whether the server has not hung up: an idle connection has nothing to read until it has."""
    if connection.closed:
        return False
    readable, _, _ = select.select([connection.fileno()], [], [], 0)
    return not readable
