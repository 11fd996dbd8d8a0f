"""The schema: the files sql/migrations/NNNN_name.sql, applied in order, each in its transaction."""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiosql
import psycopg2
import psycopg2.errors

from app import clock
from app.errors import OperatorError

_SQL = Path(__file__).parents[2] / "sql"
_BEGIN = _SQL / "begin_migration.sql"
_queries = aiosql.from_path(_SQL / "queries" / "migrations.sql", "psycopg2")

MIGRATIONS = _SQL / "migrations"
OLDEST_SERVER = 15

_LOOK_EVERY = 0.1  # seconds between two looks at what a migration waits for
# It waits for a lock, or for one who waits for it.
_LOCKED = (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected)


@dataclass(frozen=True, slots=True)
class Patience:
    """For how many seconds a migration waits for each lock (0: without end), and how often it is
    tried, with how many seconds of pause between.

    While it waits for a table's lock, all who ask for that table queue behind it.
    """

    lock: float = 0.0
    pause: float = 0.0
    tries: int = 1


class _LockedError(Exception):
    """A migration waited in vain for a lock; the text says for which one, and who holds it."""


@dataclass(frozen=True, slots=True)
class _Migration:
    version: int
    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def migrate(
    dsn: str,
    folder: Path = MIGRATIONS,
    *,
    patience: Patience = Patience(),
    tell: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Apply what is missing and return the names applied, in order; `tell` what is waited for.

    May run in several places at once: each file is applied by one of them. A file that fails
    leaves nothing of itself; those before it stay. Raises OperatorError where the database and
    the files do not fit together, a file fails, or gets no lock in all its tries, the role may
    not, or the server is unreachable or too old.
    """
    migrations = _read(folder)
    done: list[str] = []
    try:
        with closing(psycopg2.connect(dsn)) as connection:
            _check_server(connection)
            while name := _apply_in_tries(dsn, connection, migrations, patience, tell):
                done.append(name)
    except psycopg2.Error as error:
        raise OperatorError(f"The database cannot be migrated: {error}") from error
    return done


def pending(connection: Any, folder: Path = MIGRATIONS) -> list[str]:
    """The names not applied yet; reads only, and the service's role may ask.

    A database that is ahead of the files has nothing pending: during a rolling update the
    replicas of the older version go on working.
    """
    applied = _queries.applied(connection) if _queries.is_prepared(connection) else ()
    versions = {version for version, _, _ in applied}
    return [one.name for one in _read(folder) if one.version not in versions]


def _read(folder: Path) -> list[_Migration]:
    """The files in order; refuses a gap, a number used twice, or a name of another shape."""
    found = []
    for expected, path in enumerate(sorted(folder.glob("*.sql")), start=1):
        match = re.fullmatch(r"([0-9]{4})_[a-z0-9_]+", path.stem)
        if match is None or int(match[1]) != expected:
            raise OperatorError(f"{path.name} should be called {expected:04}_some_name.sql.")
        found.append(_Migration(expected, path))
    return found


def _check_server(connection: Any) -> None:
    major = connection.server_version // 10_000
    if major < OLDEST_SERVER:
        raise OperatorError(f"PostgreSQL {OLDEST_SERVER} or newer is needed; this is {major}.")


def _apply_in_tries(
    dsn: str,
    connection: Any,
    migrations: list[_Migration],
    patience: Patience,
    tell: Callable[[str], None],
) -> str | None:
    """As `_apply_next`, tried again where a lock was not to be had."""
    for left in reversed(range(patience.tries)):
        try:
            return _apply_next(dsn, connection, migrations, patience.lock)
        except _LockedError as error:
            if not left:
                raise OperatorError(
                    f"{error}: given up after {patience.tries} tries, which left nothing behind."
                ) from error
            tell(f"{error} (tries left: {left})")
        clock.sleep(patience.pause)
    raise AssertionError("unreachable: the last try returns or raises")


def _apply_next(
    dsn: str, connection: Any, migrations: list[_Migration], lock_timeout: float
) -> str | None:
    """Apply the first missing migration and return its name, or None when there is none left."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_BEGIN.read_text("utf-8"))
        # Only under the lock is it certain what others have applied.
        applied = list(_queries.applied(connection))
        _check_history(applied, migrations)
        if len(applied) == len(migrations):
            return None
        migration = migrations[len(applied)]
        pid = _queries.limit_waiting(connection, milliseconds=round(lock_timeout * 1000))
        try:
            with _watched(dsn, pid) as waited_for:
                cursor.execute(migration.path.read_text("utf-8"))
        except _LOCKED as error:
            raise _LockedError(
                f"{migration.name} waits for {' and '.join(waited_for) or 'a lock'}"
            ) from error
        except psycopg2.Error as error:
            raise OperatorError(
                f"{migration.name} failed and left nothing behind: {error}"
            ) from error
        _queries.record(
            connection,
            version=migration.version,
            name=migration.name,
            checksum=migration.checksum,
        )
    return migration.name


@contextmanager
def _watched(dsn: str, pid: int) -> Iterator[list[str]]:
    """What the session `pid` waits for, as it was last seen while the block ran.

    It is looked at by another connection: a session that waits cannot tell, and afterwards nobody
    knows. Where that fails nothing is seen.
    """
    seen: list[str] = []
    over = threading.Event()

    def look() -> None:
        if over.wait(_LOOK_EVERY):  # as most are
            return
        try:
            with closing(psycopg2.connect(dsn)) as connection:
                connection.autocommit = True
                while not over.wait(_LOOK_EVERY):
                    if waited_for := [text for (text,) in _queries.waited_for(connection, pid=pid)]:
                        seen[:] = waited_for
        except psycopg2.Error:
            return

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield seen
    finally:
        over.set()
        watching.join()


def _check_history(applied: list[tuple[int, str, str]], migrations: list[_Migration]) -> None:
    """What was applied must be the beginning of the files, unchanged."""
    for (version, name, checksum), migration in zip(applied, migrations, strict=False):
        if (version, name) != (migration.version, migration.name):
            raise OperatorError(
                f"The database holds {name} where the files have {migration.name}: "
                "it was migrated by another version of the service."
            )
        if checksum != migration.checksum:
            raise OperatorError(
                f"{name} was changed after it was applied. Put it back as it was and write "
                "the change as a new migration."
            )
    if len(applied) > len(migrations):
        raise OperatorError(
            f"The database is newer than this version of the service: it holds {applied[-1][1]}."
        )
