"""`migrate`, `rotate-keys`, `purge`, `audit`: upkeep of the database."""

from datetime import datetime

import click

from app import errors
from app.cli.options import MOMENT, MOMENT_HELP, Group, command, in_local_time, json_option
from app.cli.output import print_table, progress
from app.context import service, settings
from app.db import migrate
from app.parsers import MOST_DAYS
from app.services.events import journal
from app.services.operators import audit, keys
from app.services.operators import purge as documents

audits = Group("audit", help="Who did what, and when.")


@command("migrate")
def migrate_database() -> None:
    """Bring the database up to date.

    DATABASE_URL must name it with the role that owns it. Safe beside a running service: locks are
    waited for only briefly, again and again.
    """
    timing = settings().timing
    applied = migrate.migrate(
        settings().database_url,
        patience=migrate.Patience(
            timing.migration_lock, timing.migration_pause, timing.migration_tries
        ),
        tell=lambda text: click.echo(text, err=True),
    )
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("up to date")


@command("rotate-keys")
def rotate_keys() -> None:
    """Re-encrypt stored secrets with the newest key.

    That is the first of SECRET_KEYS. Safe to interrupt and run again, and to run while the
    service runs with the same SECRET_KEYS.
    """
    with progress("secrets") as show:
        done = keys.rotate(service().db, service().vault, show)
    click.echo(f"{done.sealed} secrets sealed with the newest key")
    if done.unreadable:
        raise errors.OperatorError(
            f"{done.unreadable} cannot be opened: their key is not in SECRET_KEYS, or the row was "
            "moved."
        )


@command("purge")
def purge() -> None:
    """Delete old documents and events, and expired download links.

    Documents are kept answers and archived UPOs; they are old after DOCUMENT_RETENTION_DAYS, and so
    are events. Links in the companies' rows stay. Meant for cron: safe beside live traffic, and to
    interrupt and run again.
    """
    click.echo(
        f"expired download links of {documents.forget_links(service().db)} kept answers deleted"
    )
    days = settings().document_retention_days
    if days is None:
        click.echo("DOCUMENT_RETENTION_DAYS is not set: documents and events are kept")
        return
    deleted = documents.purge(service().db, days)
    click.echo(f"{deleted.answers} kept answers and {deleted.upos} archived UPOs deleted")
    click.echo(f"{journal.purge(service().db, days)} events deleted")


@audits.command("list")
@click.option("--nip", help="Only of this company")
@click.option(
    "--what", type=click.Choice([act.value for act in audit.What]), help="Only acts of this kind"
)
@click.option("--since", type=MOMENT, help=MOMENT_HELP)
@click.option(
    "--most", type=click.IntRange(1), default=100, show_default=True, help="At most so many rows"
)
@json_option
def list_audit(
    nip: str | None, what: str | None, since: datetime | None, most: int, as_json: bool
) -> None:
    """Show who did what, newest first."""
    print_table(
        ("at", "who", "what", "nip", "environment", "detail", "address", "request"),
        [
            (
                row.at,
                row.who,
                row.what,
                row.company_nip,
                row.environment,
                row.detail,
                row.address,
                row.request_id,
            )
            for row in audit.newest(
                service().db, nip=nip, what=what, since=since and in_local_time(since), most=most
            )
        ],
        as_json,
    )


@audits.command("purge")
@click.option(
    "--days", required=True, type=click.IntRange(1, MOST_DAYS), help="Keep the last so many days"
)
def purge_audit(days: int) -> None:
    """Delete old rows of the audit.

    DATABASE_URL must name the database with the role that owns it.
    """
    try:
        deleted = audit.purge(service().db, days)
    except errors.NoRight as error:
        raise errors.OperatorError(
            "Only the owner of the database may do that; the service's role may not."
        ) from error
    click.echo(f"{deleted} rows deleted")
