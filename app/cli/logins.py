"""`credential`, `login`, `logout`, `sessions`: how companies log in to KSeF."""

import sys
from pathlib import Path

import click
from flask.cli import AppGroup, with_appcontext

from app.api.context import parts
from app.cli.options import EXISTING_FILE, for_place, json_option, plain_errors
from app.cli.output import print_table, utc
from app.services import auth, certificates
from app.services.parts import Place

credential = AppGroup("credential", help="The credential with which a company logs in to KSeF.")


@credential.command("set-token")
@plain_errors
@for_place
def set_token(place: Place) -> None:
    """Store a KSeF token, encrypted.

    The token is read from standard input; on a terminal you are asked for it.
    """
    given = click.prompt("KSeF token", hide_input=True) if sys.stdin.isatty() else None
    auth.set_token(parts(), place, given or sys.stdin.readline().strip())
    click.echo(f"KSeF token of {place.company_nip} stored for {place.environment}")


@credential.command("set-certificate")
@click.option(
    "--certificate",
    "file",
    required=True,
    type=EXISTING_FILE,
    help="PKCS#12, or the certificate in PEM, with or without its key",
)
@click.option(
    "--key",
    "key_file",
    type=EXISTING_FILE,
    help="The private key in PEM, if it is in a file of its own",
)
@click.option(
    "--passphrase-stdin", is_flag=True, help="Read the key's passphrase from standard input"
)
@click.option("--no-verify", is_flag=True, help="Store it without trying a login first")
@plain_errors
@for_place
def set_certificate(
    place: Place, file: Path, key_file: Path | None, passphrase_stdin: bool, no_verify: bool
) -> None:
    """Store a certificate with its key, encrypted.

    It is stored only after a test login with it has succeeded, unless --no-verify is given.
    """
    certificate = certificates.read(
        parts(),
        file.read_bytes(),
        key_file.read_bytes() if key_file else None,
        _passphrase() if passphrase_stdin else None,
    )
    if not no_verify:
        certificates.prove(parts(), place, certificate)
    auth.set_certificate(parts(), place, certificate)
    for line in certificates.describe(place, certificate):
        click.echo(line)
    proof = "not proved by a login" if no_verify else "proved by a login"
    click.echo(f"certificate of {place.company_nip} stored for {place.environment}, {proof}")


@click.command("login")
@with_appcontext
@plain_errors
@for_place
def log_in(place: Place) -> None:
    """Log a company in to KSeF.

    This also tries a credential that KSeF has blocked for security reasons (480), which the
    service itself no longer does.
    """
    session = auth.log_in(parts(), place, by_operator=True)
    until = utc(session.refresh_token_valid_until)
    click.echo(f"{place.company_nip} is logged in to {place.environment}, until {until}")


@click.command("logout")
@with_appcontext
@plain_errors
@for_place
def log_out(place: Place) -> None:
    """Revoke a company's KSeF session.

    The stored credential stays.
    """
    auth.log_out(parts(), place)
    click.echo(f"{place.company_nip} is logged out of {place.environment}")


@click.command("sessions")
@with_appcontext
@json_option
@plain_errors
def sessions(as_json: bool) -> None:
    """Show who is logged in to KSeF.

    For each stored credential: its method, since when and until when the company is logged in,
    and whether KSeF refuses it.
    """
    print_table(
        ("nip", "environment", "method", "since", "access until", "refresh until", "state"),
        [
            (
                row.company_nip,
                row.environment,
                row.method,
                row.authenticated_at,
                row.access_token_valid_until,
                row.refresh_token_valid_until,
                f"refused ({row.refused_code}) since {utc(row.refused_at)}"
                if row.refused_code
                else ("logged in" if row.authenticated_at else "logged out"),
            )
            for row in auth.list_sessions(parts())
        ],
        as_json,
    )


def _passphrase() -> str:
    """The passphrase as given; leading and trailing spaces may be part of it."""
    if sys.stdin.isatty():
        typed: str = click.prompt("Passphrase", hide_input=True)
        return typed
    return sys.stdin.readline().rstrip("\r\n")
