"""What a run of chaos left behind, as `verdicts` wants it: from KSeF's log and from the database.

Triggers write down every change of the rows that matter. Nothing of the service is used.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from bench.rig import APPLICATION, Rig
from bench.verdicts import (
    Block,
    BreakerChange,
    Call,
    KeptChange,
    LinkChange,
    Renewal,
    Reservation,
    Sample,
    Session,
)
from sandbox.control import Call as Logged
from sandbox.control import Control, SeededSession

TABLES = ("kept_sessions", "kept_invoices", "synced_invoices", "offline_invoices", "upos")
_PREFIX = re.compile(r"^/(\{environment\}/(v2|storage)|latarnia/\{environment\})")
_REFERENCE = re.compile(r"/(?:sessions|upo)/([0-9A-Z-]{36})")

WATCH = """
CREATE SCHEMA seen;
CREATE TABLE seen.links (
    at timestamptz, act text, tab text, nip text, environment text, key text, old text, new text
);
CREATE TABLE seen.kept (
    at timestamptz, how text, reference text, asked_at timestamptz, checked_at timestamptz,
    old_checked_at timestamptz, old_final boolean, final boolean
);
CREATE TABLE seen.reservations (
    at timestamptz, planned_at timestamptz, nip text, quota_group text, units integer
);
CREATE TABLE seen.blocks (at timestamptz, until timestamptz, nip text, quota_group text);
CREATE TABLE seen.renewals (at timestamptz, nip text);
CREATE TABLE seen.breaker (
    at timestamptz, is_open boolean, probed_at timestamptz, latarnia_asked_at timestamptz
);

CREATE FUNCTION seen.link() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE key text := CASE TG_TABLE_NAME
    WHEN 'synced_invoices' THEN to_jsonb(OLD) ->> 'ksef_number'
    ELSE to_jsonb(OLD) ->> 'ksef_reference_number' END;
BEGIN
    INSERT INTO seen.links VALUES (
        clock_timestamp(), TG_OP, TG_TABLE_NAME, OLD.company_nip, OLD.environment, key,
        OLD.session_reference_number,
        CASE TG_OP WHEN 'UPDATE' THEN NEW.session_reference_number END);
    RETURN NULL;
END $$;
CREATE FUNCTION seen.answer() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO seen.kept VALUES (clock_timestamp(), TG_OP, OLD.reference_number,
            OLD.asked_at, OLD.checked_at, OLD.checked_at, OLD.final, OLD.final);
    ELSE
        INSERT INTO seen.kept VALUES (clock_timestamp(),
            CASE WHEN current_query() LIKE '%INSERT INTO kept_sessions%' THEN 'put'
                 WHEN OLD.checked_at = NEW.checked_at THEN 'marked' ELSE 'confirmed' END,
            NEW.reference_number, NEW.asked_at, NEW.checked_at,
            CASE TG_OP WHEN 'UPDATE' THEN OLD.checked_at END,
            CASE TG_OP WHEN 'UPDATE' THEN OLD.final END, NEW.final);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION seen.reservation() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO seen.reservations VALUES (
            clock_timestamp(), NEW.reserved_at, NEW.company_nip, NEW.quota_group, 1);
    ELSE
        INSERT INTO seen.reservations VALUES (
            clock_timestamp(), OLD.reserved_at, OLD.company_nip, OLD.quota_group, -1);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION seen.block() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    IF NEW.blocked_until IS NOT NULL THEN
        INSERT INTO seen.blocks VALUES (
            clock_timestamp(), NEW.blocked_until, NEW.company_nip, NEW.quota_group);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION seen.renewal() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    IF TG_OP = 'INSERT' OR NEW.version > OLD.version THEN
        INSERT INTO seen.renewals VALUES (clock_timestamp(), NEW.company_nip);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION seen.breaker() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    INSERT INTO seen.breaker VALUES (
        clock_timestamp(), NEW.opened_at IS NOT NULL, NEW.probed_at, NEW.latarnia_asked_at);
    RETURN NULL;
END $$;
CREATE TRIGGER seen AFTER UPDATE OR DELETE ON synced_invoices
    FOR EACH ROW EXECUTE FUNCTION seen.link();
CREATE TRIGGER seen AFTER UPDATE OR DELETE ON offline_invoices
    FOR EACH ROW EXECUTE FUNCTION seen.link();
CREATE TRIGGER seen AFTER INSERT OR UPDATE OR DELETE ON kept_sessions
    FOR EACH ROW EXECUTE FUNCTION seen.answer();
CREATE TRIGGER seen AFTER INSERT OR DELETE ON quota_calls
    FOR EACH ROW EXECUTE FUNCTION seen.reservation();
CREATE TRIGGER seen AFTER INSERT OR UPDATE OF blocked_until ON quota_groups
    FOR EACH ROW EXECUTE FUNCTION seen.block();
CREATE TRIGGER seen AFTER INSERT OR UPDATE ON ksef_sessions
    FOR EACH ROW EXECUTE FUNCTION seen.renewal();
CREATE TRIGGER seen AFTER INSERT OR UPDATE ON outages
    FOR EACH ROW EXECUTE FUNCTION seen.breaker();
"""


class Witness:
    """Reads what was seen; made before the load begins."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        rig.execute(WATCH)

    def links(self) -> list[LinkChange]:
        return [LinkChange(*row) for row in self._rows("links", "at")]

    def kept(self) -> list[KeptChange]:
        times = ("at", "asked_at", "checked_at", "old_checked_at")
        return [KeptChange(*row) for row in self._rows("kept", *times)]

    def reservations(self) -> list[Reservation]:
        return [Reservation(*row) for row in self._rows("reservations", "at", "planned_at")]

    def blocks(self) -> list[Block]:
        return [Block(*row) for row in self._rows("blocks", "at", "until")]

    def renewals(self) -> list[Renewal]:
        return [Renewal(*row) for row in self._rows("renewals", "at")]

    def breaker(self) -> list[BreakerChange]:
        times = ("at", "probed_at", "latarnia_asked_at")
        return [BreakerChange(*row) for row in self._rows("breaker", *times)]

    def _rows(self, table: str, *times: str) -> list[tuple[Any, ...]]:
        """All rows, in the order of their writing, moments as seconds."""
        columns = self._rig.execute(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_schema = 'seen' AND table_name = %s ORDER BY ordinal_position",
            (table,),
        )
        chosen = ", ".join(
            f"extract(epoch FROM {name})::float8" if name in times else name for (name,) in columns
        )
        return self._rig.execute(f"SELECT {chosen} FROM seen.{table} ORDER BY at")

    def archived(self) -> dict[str, float]:
        """KSeF number → when its UPO was archived."""
        return dict(
            self._rig.execute(
                "SELECT ksef_number, extract(epoch FROM fetched_at)::float8 FROM upos"
                " WHERE ksef_number <> ''"
            )
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Every row of the tables that hold answers and links, as PostgreSQL stored it."""
        return [
            (table, *row)
            for table in TABLES
            for row in self._rig.execute(f"SELECT ctid::text, xmin::text FROM {table} ORDER BY 1")
        ]

    def linked(self) -> list[tuple[str, str, str, str, str | None]]:
        """(table, nip, environment, key, session) of every invoice row."""
        return [
            row
            for table, key in (
                ("synced_invoices", "ksef_number"),
                ("offline_invoices", "ksef_reference_number"),
            )
            for row in self._rig.execute(
                f"SELECT '{table}', company_nip, environment::text, {key},"
                f" session_reference_number FROM {table}"
            )
        ]  # type: ignore[return-value]

    def answers(self) -> dict[str, tuple[bool, frozenset[str]]]:
        """What is kept of each session: whether it is final, and its accepted KSeF numbers."""
        return {
            reference: (final, frozenset(numbers or ()))
            for reference, final, numbers in self._rig.execute(
                "SELECT kept.reference_number, final, array_agg(ksef_number)"
                "   FILTER (WHERE status @> '{\"code\": 200}')"
                " FROM kept_sessions AS kept JOIN kept_invoices AS invoice"
                " ON (invoice.company_nip, invoice.environment, session_reference_number)"
                " = (kept.company_nip, kept.environment, kept.reference_number)"
                " GROUP BY kept.reference_number, final"
            )
        }

    def deadlocks(self) -> tuple[int, int]:
        """How many PostgreSQL counted, and how many transactions there were."""
        [row] = self._rig.execute(
            "SELECT sum(deadlocks)::int, sum(xact_commit)::int FROM pg_stat_database"
        )
        return row[0], row[1]


def calls(control: Control, sessions: Iterable[Session]) -> list[Call]:
    """KSeF's log; whose call it was is told by its token, else by the session in its path."""
    owners = {session.reference: session.nip for session in sessions}
    logged = control.calls()
    if len(logged) != sum(control.call_counts().values()):
        raise RuntimeError("the sandbox has forgotten the first calls")
    return sorted((_call(call, owners) for call in logged), key=lambda call: call.at)


def sample(execute: Any) -> Sample:
    """The service's connections just now."""
    [row] = execute(
        "SELECT extract(epoch FROM clock_timestamp())::float8, count(*),"
        " coalesce(extract(epoch FROM clock_timestamp() - min(state_change)"
        "   FILTER (WHERE state LIKE 'idle in transaction%%')), 0)::float8"
        " FROM pg_stat_activity WHERE application_name = %s",
        (APPLICATION,),
    )
    return Sample(*row)


def session_of(seeded: SeededSession, originals: dict[str, str]) -> Session:
    """What KSeF will hold in the end; `originals` are those of the session's duplicates."""
    return Session(
        nip=seeded.nip,
        environment=seeded.environment,
        reference=seeded.reference_number,
        accepted=frozenset(
            i.ksef_number for i in seeded.invoices if i.ksef_number and i.outcome == 200
        ),
        references=frozenset(
            [seeded.reference_number, *(i.reference_number for i in seeded.invoices)]
        ),
        originals=originals,
    )


def moment(text: str) -> float:
    """Seconds of a moment in the sandbox's log."""
    return datetime.fromisoformat(text).timestamp()


def _call(logged: Logged, owners: dict[str, str]) -> Call:
    found = _REFERENCE.search(logged.path)
    reference = found[1] if found else None
    last = logged.path.removesuffix("/upo").rsplit("/", 1)[-1]
    wait = logged.retry_after
    return Call(
        at=moment(logged.at),
        service=logged.service,
        route=_PREFIX.sub("", logged.route or logged.path, count=1),
        nip=logged.nip or owners.get(reference or ""),
        reference=reference,
        subject=last,
        answered=moment(logged.answered_at) if logged.answered_at else None,
        status=logged.status,
        fault=logged.fault,
        retry_after=float(wait) if wait and wait.isdigit() else None,
    )
