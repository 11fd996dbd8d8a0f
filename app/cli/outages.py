"""`outage`: rehearsals of an outage of KSeF."""

from datetime import datetime

import click
from flask.cli import AppGroup

from app.cli.options import UTC_DATE_TIME, environment_argument, plain_errors
from app.context import service
from app.services import outages
from app.services.operators import users

outage = AppGroup("outage", help="Simulated outages of KSeF.")


@outage.command("simulate")
@environment_argument
@click.option("--message", required=True, help="What callers are told")
@click.option("--until", type=UTC_DATE_TIME, help="UTC, for example 2026-12-31T18:00:00")
@click.option("--nip", help="Only for this company; for all companies if left out")
@plain_errors
def simulate(environment: str, message: str, until: datetime | None, nip: str | None) -> None:
    """Begin a simulation (test and demo only)."""
    if nip is not None:
        users.require_company(service().db, nip)
    outages.simulate(service().db, environment, company_nip=nip, message=message, ends_at=until)
    click.echo(f"{environment}: outage simulated")


@outage.command("clear")
@environment_argument
@plain_errors
def clear(environment: str) -> None:
    """End all simulations in an environment."""
    ended = outages.clear_all(service().db, environment)
    click.echo(f"{environment}: {ended} simulation(s) ended")
