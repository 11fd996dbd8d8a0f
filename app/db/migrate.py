"""The schema: the files sql/migrations/NNNN_name.sql, applied in order, each in its transaction."""

import hashlib
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiosql
import psycopg2

from app.errors import OperatorError

_SQL = Path(__file__).parents[2] / "sql"
_BEGIN = _SQL / "begin_migration.sql"
_queries = aiosql.from_path(_SQL / "queries" / "migrations.sql", "psycopg2")

MIGRATIONS = _SQL / "migrations"
OLDEST_SERVER = 15


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


def migrate(dsn: str, folder: Path = MIGRATIONS) -> list[str]:
    """Apply what is missing and return the names applied, in order.

    May run in several places at once: each file is applied by one of them. A file that fails
    leaves nothing of itself; those before it stay. Raises OperatorError where the database and
    the files do not fit together, a file fails, the role may not, or the server is unreachable
    or too old.
    """
    migrations = _read(folder)
    done: list[str] = []
    try:
        with closing(psycopg2.connect(dsn)) as connection:
            _check_server(connection)
            while name := _apply_next(connection, migrations):
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


def _apply_next(connection: Any, migrations: list[_Migration]) -> str | None:
    """Apply the first missing migration and return its name, or None when there is none left."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_BEGIN.read_text("utf-8"))
        # Only under the lock is it certain what others have applied.
        applied = list(_queries.applied(connection))
        _check_history(applied, migrations)
        if len(applied) == len(migrations):
            return None
        migration = migrations[len(applied)]
        try:
            cursor.execute(migration.path.read_text("utf-8"))
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
