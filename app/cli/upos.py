"""`upo`: archiving and drawing UPOs."""

from pathlib import Path

import click
from flask.cli import AppGroup

from app.account import Account
from app.cli.options import EXISTING_FILE, for_long_work, plain_errors
from app.cli.output import print_summary, progress
from app.services.upo import fetch

upos = AppGroup("upo", help="UPOs.")


@upos.command("archive")
@plain_errors
@for_long_work
def archive_upos(account: Account) -> None:
    """Fetch the UPOs missing from the archive.

    Fetches those of linked invoices. Safe to interrupt and run again. Leaves half of KSeF's quota
    to live traffic.
    """
    with progress("UPOs") as show:
        summary = fetch.archive_upos(account, show)
    print_summary(summary, "UPOs archived")


@upos.command("render")
@click.argument("file", type=EXISTING_FILE)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the PDF",
)
@click.option(
    "--language",
    type=click.Choice(("pl", "en")),
    default="pl",
    show_default=True,
    help="Language of the PDF's labels",
)
@plain_errors
def render(file: Path, output: Path, language: str) -> None:
    """Draw the PDF of a UPO's XML file.

    Needs neither the database nor KSeF.
    """
    output.write_bytes(fetch.render(file.read_bytes(), language=language))
    click.echo(f"{output} written")
