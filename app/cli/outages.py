"""`outage`: rehearsals of an outage of KSeF."""

from datetime import datetime

import click

from app import errors
from app.cli.options import MOMENT, MOMENT_HELP, Group, environment_argument, in_local_time
from app.context import service
from app.services import outages
from app.services.operators import users

outage = Group("outage", help="Simulated outages of KSeF.")


@outage.command("simulate")
@environment_argument
@click.option("--message", required=True, help="What callers are told")
@click.option("--until", type=MOMENT, help=MOMENT_HELP)
@click.option("--nip", help="Only for this company; for all companies if left out")
def simulate(environment: str, message: str, until: datetime | None, nip: str | None) -> None:
    """Begin a simulation (test and demo only)."""
    if nip is not None:
        users.require_company(service().db, nip)
    try:
        outages.simulate(
            service().db,
            environment,
            company_nip=nip,
            message=message,
            ends_at=until and in_local_time(until),
        )
    except errors.InvalidParameter as error:
        names = {"endsAt": "--until", "message": "--message"}
        error.errors = {names[name]: said for name, said in (error.errors or {}).items()}
        raise
    click.echo(f"{environment}: outage simulated")


@outage.command("clear")
@environment_argument
def clear(environment: str) -> None:
    """End all simulations in an environment."""
    ended = outages.clear_all(service().db, environment)
    click.echo(f"{environment}: {ended} simulation(s) ended")
