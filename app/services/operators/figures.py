"""Metrics that come from the database, and so are the same in every replica."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from app import errors
from app.db.migrate import latest, pending
from app.db.pool import Database
from app.db.queries import figures as queries
from app.ksef.limits import PUBLISHED
from app.settings import Timing
from app.version import VERSION, commit

HELP = {
    "build_info": "1, with the version of the service and its commit, empty if that is not known",
    "database_up": "1 where the database answers; without it the figures below are missing",
    "certificate_end_timestamp_seconds": "When the first of the stored KSeF certificates ends",
    "refused_credentials": "Stored credentials that KSeF refuses",
    "active_sessions": "Companies that are logged in to KSeF",
    "breaker_open": "1 while KSeF is known to be down",
    "firewall_blocks": "1 while nothing is sent because KSeF's firewall blocked a call",
    "events_undelivered": "Events that wait for a webhook's receiver",
    "events_oldest_undelivered_seconds": "Age of the oldest of them, 0 where none waits",
    "events_parked": "Events that a receiver refused, or that were given up: none is sent again"
    " without `webhook replay`",
    "webhooks_ended": "Webhooks whose receiver said that it is gone for ever (410)",
    "quota_left_ratio": "What is left of our share of KSeF's hourly quota, 0 to 1,"
    " to the company that has least of it",
    "quota_blocked_companies": "Companies that KSeF's 429 keeps from calling",
    "follow_lag_seconds": "How far back everything is known, for the logged in company that is"
    " furthest behind; of those that were ever followed",
    "followed_sessions": "Sessions that are followed and not done, by state: moving, stuck, or"
    " archiving (final, and UPOs are missing)",
    "upo_archive_documents": "UPOs in the archive; an estimate above a hundred thousand",
    "upo_archive_bytes": "Bytes of the archive on disk, indexes included",
}
_LABELS = ("environment", "group", "state")


@dataclass(frozen=True, slots=True)
class Figure:
    """The present value of the metric `name`, one of HELP; no label names a company."""

    name: str
    value: float
    labels: Mapping[str, str]


def figures(db: Database, timing: Timing, quota_share: float) -> Iterator[Figure]:
    """All of these metrics; while the database is down only `build_info` and `database_up`."""
    yield Figure("build_info", 1, {"version": VERSION, "commit": commit() or ""})
    try:
        found = list(_from_database(db, timing, quota_share))
    except errors.Unavailable:
        found = [Figure("database_up", 0, {})]
    yield from found


def _from_database(db: Database, timing: Timing, quota_share: float) -> Iterator[Figure]:
    with db.transaction() as connection:
        rows = [
            *queries.by_environment(connection),
            *queries.followed(connection),
            *queries.webhooks(connection),
            *queries.quota_by_group(
                connection,
                quota_groups=list(PUBLISHED),
                per_hour=[limits.per_hour for limits in PUBLISHED.values()],
                share=quota_share,
                seconds=3600.0 * timing.quota_scale,
            ),
            queries.archive(connection),
        ]
    yield Figure("database_up", 1, {})
    for row in rows:
        columns = row._asdict()
        labels = {name: columns.pop(name) for name in _LABELS if name in columns}
        for name, value in columns.items():
            if value is not None:
                yield Figure(name, value, labels)


def pending_migrations(db: Database) -> Sequence[str]:
    """Names of the migrations not applied yet; Unavailable if the database cannot be asked."""
    with db.transaction() as connection:
        return pending(connection)


def latest_migrations(db: Database) -> tuple[str | None, str]:
    """Names of the last migration applied, None before the first, and of the last one that this
    version has; Unavailable if the database cannot be asked."""
    with db.transaction() as connection:
        return latest(connection)
