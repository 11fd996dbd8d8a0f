"""The schema: the files sql/migrations/NNNN_name.sql, applied in order, each in its transaction."""

import hashlib
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiosql
import psycopg2
import psycopg2.errors

from app import clock
from app.db import failures
from app.errors import OperatorError

_SQL = Path(__file__).parents[1] / "sql"
_BEGIN = _SQL / "begin_migration.sql"
_queries = aiosql.from_path(_SQL / "queries" / "migrations.sql", "psycopg2", encoding="utf-8")

MIGRATIONS = _SQL / "migrations"
OLDEST_SERVER = 15

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
    """The migration of this name waited in vain for a lock."""


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
    files = _read(folder)
    done: list[str] = []
    try:
        connection = psycopg2.connect(dsn)
    except psycopg2.Error as error:
        reason = failures.no_connection(error, dsn)
        raise OperatorError(f"The database cannot be migrated: {reason}") from error
    with closing(connection):
        try:
            _check_server(connection)
            while name := _apply_in_tries(connection, files, patience, tell):
                done.append(name)
        except psycopg2.errors.InsufficientPrivilege as error:
            raise OperatorError(
                f"The database cannot be migrated: {error.diag.message_primary}: DATABASE_URL must"
                f" name it with the role that owns it, and not with {connection.info.user}"
            ) from error
        except psycopg2.Error as error:
            reason = error.diag.message_primary or " ".join(str(error).split())
            raise OperatorError(f"The database cannot be migrated: {reason}") from error
        for notice in connection.notices:
            if notice.startswith("WARNING:"):
                tell(notice.strip())
    return done


def check(connection: Any, folder: Path = MIGRATIONS) -> str:
    """The name of the last migration; OperatorError unless the database has exactly the files'.

    And where the server is too old. Reads only, and the service's role may ask.
    """
    _check_server(connection)
    files = _read(folder)
    applied = _applied(connection)
    if not applied and (hidden := _queries.out_of_sight(connection)):
        name, is_usable = hidden
        who = connection.info.user
        cure = (
            f"{who} does not look into: put it into its search_path"
            if is_usable
            else f"{who} may not use: GRANT USAGE ON SCHEMA {name} TO {who}"
        )
        raise OperatorError(f"The tables are in the schema {name}, which {cure}.")
    _check_history(applied, files)
    if missing := [file.stem for file in files[len(applied) :]]:
        raise OperatorError(
            f"The database lacks migrations: {', '.join(missing)}. Run `migrate` as its owner."
        )
    return files[-1].stem


def pending(connection: Any, folder: Path = MIGRATIONS) -> list[str]:
    """The names not applied yet; reads only, and the service's role may ask.

    A database that is ahead of the files has nothing pending: during a rolling update the
    replicas of the older version go on working.
    """
    versions = {version for version, _, _ in _applied(connection)}
    return [file.stem for number, file in enumerate(_read(folder), 1) if number not in versions]


def latest(connection: Any, folder: Path = MIGRATIONS) -> tuple[str | None, str]:
    """The names of the last migration applied (None before the first) and of the last one known."""
    applied = _applied(connection)
    return applied[-1][1] if applied else None, _read(folder)[-1].stem


def _applied(connection: Any) -> list[Any]:
    """The rows of what was applied, in order: version, name, checksum; none before the first."""
    return list(_queries.applied(connection)) if _queries.is_prepared(connection) else []


def _read(folder: Path) -> list[Path]:
    """The files in order; refuses a gap, a number used twice, or a name of another shape."""
    files = sorted(folder.glob("*.sql"))
    for number, file in enumerate(files, start=1):
        if not re.fullmatch(f"{number:04}_[a-z0-9_]+", file.stem):
            raise OperatorError(f"{file.name} should be called {number:04}_some_name.sql.")
    return files


def _check_server(connection: Any) -> None:
    major = connection.server_version // 10_000
    if major < OLDEST_SERVER:
        raise OperatorError(f"PostgreSQL {OLDEST_SERVER} or newer is needed; this is {major}.")


def unfit_encoding(connection: Any) -> str | None:
    """What is to be done where the database's encoding lacks letters that others send; or None."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding == "UTF8":
        return None
    return (
        f"The database's encoding is {encoding}, which cannot hold every name: make it anew, by"
        f" CREATE DATABASE {connection.info.dbname} TEMPLATE template0 ENCODING 'UTF8'"
        " LOCALE 'C.UTF-8'."
    )


def _apply_in_tries(
    connection: Any, files: list[Path], patience: Patience, tell: Callable[[str], None]
) -> str | None:
    """As `_apply_next`, tried again where a lock was not to be had."""
    for left in reversed(range(patience.tries)):
        try:
            return _apply_next(connection, files, patience.lock)
        except _LockedError as error:
            # Whoever held it is likely to hold it still.
            users = " and ".join(text for (text,) in _queries.tables_in_use(connection))
            connection.rollback()
            waits = f"{error} waits for a lock; in use are {users or 'no tables any more'}"
            if not left:
                raise OperatorError(
                    f"{waits}: given up after {patience.tries} tries, which left nothing behind."
                ) from error
            tell(f"{waits} (tries left: {left})")
        clock.sleep(patience.pause)
    raise AssertionError("unreachable: the last try returns or raises")


def _apply_next(connection: Any, files: list[Path], lock_timeout: float) -> str | None:
    """Apply the first missing file and return its name, or None when there is none left."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_BEGIN.read_text("utf-8"))
        # Only under the lock is it certain what others have applied.
        applied = list(_queries.applied(connection))
        _check_history(applied, files)
        if not applied and (unfit := unfit_encoding(connection)):
            raise OperatorError(unfit)
        if len(applied) == len(files):
            return None
        file = files[len(applied)]
        _queries.limit_waiting(connection, milliseconds=round(lock_timeout * 1000))
        try:
            cursor.execute(file.read_text("utf-8"))
        except _LOCKED as error:
            raise _LockedError(file.stem) from error
        except psycopg2.Error as error:
            raise OperatorError(f"{file.stem} failed and left nothing behind: {error}") from error
        _queries.record(
            connection, version=len(applied) + 1, name=file.stem, checksum=_checksum(file)
        )
    return file.stem


def _check_history(applied: list[tuple[int, str, str]], files: list[Path]) -> None:
    """What was applied must be the beginning of the files, unchanged."""
    for (_, name, checksum), file in zip(applied, files, strict=False):
        if name != file.stem:
            raise OperatorError(
                f"The database holds {name} where the files have {file.stem}: "
                "it was migrated by another version of the service."
            )
        if checksum != _checksum(file):
            raise OperatorError(
                f"{name} was changed after it was applied. Put it back as it was and write "
                "the change as a new migration."
            )
    if len(applied) > len(files):
        raise OperatorError(
            f"The database is newer than this version of the service: it holds {applied[-1][1]}."
        )


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
