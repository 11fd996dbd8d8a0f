"""`quota`: how much of KSeF's quota is used, and the blocks that KSeF has set."""

import click

from app.account import Account
from app.cli.options import Group, for_account, json_option
from app.cli.output import print_table
from app.services.operators import quotas as use

quotas = Group("quota", help="KSeF's quota, as used by all replicas together.")


@quotas.command("show")
@json_option
@for_account
def show_quota(account: Account, as_json: bool) -> None:
    """Show the calls and limits of each group.

    Calls of the last minute and hour, limits by second, minute and hour, and until when KSeF
    blocks a group.
    """
    print_table(
        ("group", "minute", "hour", "limits", "blocked until"),
        [
            (
                row.quota_group,
                row.used_minute,
                row.used_hour,
                "published"
                if row.per_hour is None
                else f"{row.per_second}/{row.per_minute}/{row.per_hour}",
                row.blocked_until,
            )
            for row in use.show(account)
        ],
        as_json,
    )


@quotas.command("clear")
@for_account
def clear_quota(account: Account) -> None:
    """Lift the blocks set by KSeF's 429 answers.

    Calls made so far still count.
    """
    click.echo(f"{use.clear(account)} block(s) lifted")
