"""`webhook`: who is told of events, and what became of that."""

from datetime import datetime
from typing import Any

import click

from app import errors
from app.account import Account
from app.cli.options import MOMENT, MOMENT_HELP, Group, for_account, in_local_time, json_option
from app.cli.output import print_table
from app.context import service
from app.services.events import webhooks

webhook = Group("webhook", help="Webhooks: receivers that are told of events.")
url_argument = click.argument("url")


@webhook.command("add")
@url_argument
@for_account
def add(account: Account, url: str) -> None:
    """Add a webhook; its secret is shown once.

    It gets the events from now on, posted to URL by `follow`, signed by Standard Webhooks.
    """
    secret = webhooks.add(account, url)
    click.echo(f"{url} is told of events of {account.company_nip} in {account.environment}")
    click.echo(f"secret: {secret}")


@webhook.command("list")
@click.option("--nip", help="Only of this company")
@json_option
def list_all(nip: str | None, as_json: bool) -> None:
    """Show webhooks and their last answers.

    Also how many events wait for each, and how many were parked: given up, or refused.
    """
    print_table(
        ("nip", "environment", "url", "state", "waiting", "parked", "last answer", "at"),
        [
            (
                row.company_nip,
                row.environment,
                row.url,
                _state(row),
                row.waiting,
                row.parked,
                row.answer,
                row.answered_at,
            )
            for row in webhooks.list_all(service(), nip)
        ],
        as_json,
    )


@webhook.command("remove")
@url_argument
@for_account
def remove(account: Account, url: str) -> None:
    """Remove a webhook, with what it has parked."""
    webhooks.remove(account, url)
    click.echo(f"{url} is not told any more")


@webhook.command("test")
@url_argument
@for_account
def send_test(account: Account, url: str) -> None:
    """Post a message of the type webhook.test.

    It is posted now, by this command, and is no event.
    """
    is_taken, answer = webhooks.test(service(), account, url)
    if not is_taken:
        raise errors.OperatorError(f"{url} did not take it: {answer}")
    click.echo(f"{url} took it: {answer}")


@webhook.command("replay")
@url_argument
@click.option("--since", required=True, type=MOMENT, help=MOMENT_HELP)
@for_account
def replay(account: Account, url: str, since: datetime) -> None:
    """Deliver events again, parked ones too.

    They have the same ids as before. What waits is due at once.
    """
    waiting = webhooks.replay(account, url, in_local_time(since))
    click.echo(f"{waiting} event(s) wait for {url}")


def _state(row: Any) -> str:
    if row.ended_at is not None:
        return "ended (410)"
    return f"attempt {row.attempts + 1} follows" if row.attempts else "live"
