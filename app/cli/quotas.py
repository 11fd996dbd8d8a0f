"""`quota`: how much of KSeF's quota is used, and the blocks that KSeF has set."""

import click
from flask.cli import AppGroup

from app.api.context import parts
from app.cli.options import for_place, json_option, plain_errors
from app.cli.output import print_table
from app.services import quota
from app.services.parts import Place

quotas = AppGroup("quota", help="KSeF's quota, as used by all replicas together.")


@quotas.command("show")
@json_option
@plain_errors
@for_place
def show_quota(place: Place, as_json: bool) -> None:
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
            for row in quota.show(parts(), place)
        ],
        as_json,
    )


@quotas.command("clear")
@plain_errors
@for_place
def clear_quota(place: Place) -> None:
    """Lift the blocks set by KSeF's 429 answers.

    Calls made so far still count.
    """
    click.echo(f"{quota.clear(parts(), place)} block(s) lifted")
