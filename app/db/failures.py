"""What PostgreSQL's errors mean for callers, and what operators are told about them."""

import re
from urllib.parse import unquote

import psycopg2
from psycopg2 import errors as sqlstates
from psycopg2.extensions import parse_dsn

from app import errors, telemetry


class HangsError(psycopg2.OperationalError):
    """The server does not answer on an open connection."""


_NOT_MIGRATED = (sqlstates.UndefinedTable, sqlstates.UndefinedColumn)
_ABORTED = (  # nothing was done
    sqlstates.DeadlockDetected,
    sqlstates.SerializationFailure,
    sqlstates.AdminShutdown,  # usually seen on a connection that was idle during a restart
)
_NOT_WRITABLE = (
    sqlstates.ReadOnlySqlTransaction,
    sqlstates.DiskFull,
    sqlstates.LockNotAvailable,  # somebody holds a table or a row; reading may still work
)
_OF_THE_ERP = ("synced_invoices", "offline_invoices")
_OUTAGE = (psycopg2.OperationalError, psycopg2.InternalError, psycopg2.InterfaceError)


def understood(error: psycopg2.Error) -> errors.Unavailable | None:
    """The error for callers, once the log tells why; None if the statement itself was wrong."""
    reason = error.diag.message_primary or " ".join(str(error).split())
    seen = {"kind": type(error).__name__, "sqlstate": error.pgcode, "reason": reason}
    if isinstance(error, _NOT_MIGRATED):
        telemetry.warning("the database is not migrated", **seen)
        return errors.Unavailable(
            "The database is not migrated.",
            reason=f"{reason}: run `migrate` as the database's owner",
        )
    if isinstance(error, _ABORTED):
        telemetry.warning("the database aborted a transaction", **seen)
        return errors.BrokenOff("The database aborted a transaction.", reason=reason)
    if isinstance(error, sqlstates.InsufficientPrivilege):
        role = error.cursor.connection.info.user if error.cursor else None
        telemetry.warning("the role lacks a right in the database", **seen, role=role)
        return errors.NoRight(
            "The database refuses the service a right.", reason=f"{reason} (role {role})"
        )
    if _is_veto(error):
        constraint = error.diag.constraint_name
        telemetry.warning("a rule in the database refuses a change", **seen, constraint=constraint)
        return errors.Vetoed(
            "A rule in the database refuses to change an invoice row.", reason=reason
        )
    if isinstance(error, _NOT_WRITABLE):
        telemetry.warning("the database cannot be written to", **seen)
        return errors.NotWritable("The database cannot be written to.", reason=reason)
    if isinstance(error, _OUTAGE):
        telemetry.warning("database failure", **seen)
        return errors.Unavailable("The database does not answer.", reason=reason)
    return None


def _is_veto(error: psycopg2.Error) -> bool:
    """Whether a trigger, or a constraint of the ERP's two tables, refused a change."""
    broken = isinstance(error, sqlstates.IntegrityError)
    by_trigger = broken and error.diag.context is not None
    of_the_erp = broken and error.diag.table_name in _OF_THE_ERP
    return isinstance(error, sqlstates.RaiseException) or by_trigger or of_the_erp


def no_connection(error: psycopg2.Error, dsn: str) -> str:
    """To where there is no connection, and why in libpq's words: one line, without the password.

    A password with an @ or a / in it that was not percent-encoded: libpq takes parts of it for a
    host, a port or a database.
    """
    try:
        parsed = parse_dsn(dsn)
    except psycopg2.ProgrammingError:
        return "the connection string cannot be read"
    # psycopg2 cuts off where libpq wanted to connect to.
    where = [f"{name}={parsed[name]}" for name in ("host", "port", "user") if name in parsed]
    told = " ".join([*where, *str(error).split()])
    found = re.match(r"\w+://[^:@/]*:(.*)@", dsn)
    typed = found[1] if found else ""
    parts = re.split(r"[@:/?#&=,]", f"{typed}@{unquote(typed)}")
    for part in sorted({parsed.get("password", ""), *parts} - {""}, key=len, reverse=True):
        told = told.replace(part, "***")
    return told
