"""`invoices` and `link`: the company's own invoice rows."""

from pathlib import Path

import click

from app import errors
from app.account import Account
from app.cli.options import EXISTING_FILE, Group, command, for_account, for_long_work, json_option
from app.cli.output import print_summary, print_table, progress
from app.services.sessions import backfill, rows

invoices = Group("invoices", help="The company's own invoice rows.")


@invoices.command("import")
@click.argument("file", type=EXISTING_FILE)
@for_account
def import_invoices(file: Path, account: Account) -> None:
    """Import invoice rows from a CSV file.

    Its columns: invoice_number, ksef_number, ksef_reference_number, invoice_hash; others are
    ignored, unless they look misspelt. Either the whole file is imported or nothing; rows that
    already exist are left unchanged.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            imported = rows.import_csv(account, lines)
    except UnicodeDecodeError as error:
        raise errors.OperatorError("The file is not UTF-8.") from error
    click.echo(
        f"{imported.rows} rows read: {imported.synced} new in synced_invoices, "
        f"{imported.offline} new in offline_invoices"
    )


@invoices.command("list")
@click.option("--unlinked", is_flag=True, help="Only rows without a session")
@json_option
@for_account
def list_invoices(account: Account, unlinked: bool, as_json: bool) -> None:
    """Show the company's rows of both tables."""
    print_table(
        ("table", "invoice_number", "ksef_number", "ksef_reference_number", "session"),
        [
            (
                row.kind,
                row.invoice_number,
                row.ksef_number,
                row.ksef_reference_number,
                row.session_reference_number,
            )
            for row in rows.list_rows(account, unlinked=unlinked)
        ],
        as_json,
    )


@command("link")
@for_long_work
def link(account: Account) -> None:
    """Link all rows that are not linked yet.

    Walks KSeF's own list of the company's sessions. Safe to interrupt and run again. Leaves half
    of KSeF's quota to live traffic.
    """
    with progress("sessions") as show:
        summary = backfill.link_history(account, show)
    print_summary(summary, "sessions checked and linked")
