"""`credential`, `login`, `logout`, `sessions`: how companies log in to KSeF."""

import sys
from pathlib import Path

import click

from app.account import Account
from app.cli.options import EXISTING_FILE, Group, command, for_account, json_option, line_from_stdin
from app.cli.output import print_table, utc
from app.context import service
from app.services.login import certificates, credentials, session

credential = Group("credential", help="The credential with which a company logs in to KSeF.")


no_verify_option = click.option(
    "--no-verify", is_flag=True, help="Store it without trying a login first"
)


@credential.command("set-token")
@no_verify_option
@for_account
def set_token(account: Account, no_verify: bool) -> None:
    """Store a KSeF token, encrypted.

    The token is read from standard input; on a terminal you are asked for it. It is stored only
    after a test login with it has succeeded, unless --no-verify is given.
    """
    token = _typed_or_piped("KSeF token", "A KSeF token").strip()
    credentials.check_token(token)
    if not no_verify:
        credentials.prove(account, token)
    credentials.store_token(account, token)
    proof = "not proved by a login" if no_verify else "proved by a login"
    click.echo(f"KSeF token of {account.company_nip} stored for {account.environment}, {proof}")


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
@no_verify_option
@for_account
def set_certificate(
    account: Account, file: Path, key_file: Path | None, passphrase_stdin: bool, no_verify: bool
) -> None:
    """Store a certificate with its key, encrypted.

    It is stored only after a test login with it has succeeded, unless --no-verify is given.
    """
    certificate = certificates.read(
        service().db,
        file.read_bytes(),
        key_file.read_bytes() if key_file else None,
        # Leading and trailing spaces may be part of it.
        _typed_or_piped("Passphrase", "The passphrase") if passphrase_stdin else None,
    )
    if not no_verify:
        credentials.prove(account, certificate, certificates.whose(account, certificate))
    credentials.store_certificate(account, certificate)
    for line in certificates.describe(account, certificate):
        click.echo(line)
    proof = "not proved by a login" if no_verify else "proved by a login"
    click.echo(f"certificate of {account.company_nip} stored for {account.environment}, {proof}")


@command("login")
@for_account
def log_in(account: Account) -> None:
    """Log a company in to KSeF.

    This also tries a credential that KSeF has blocked for security reasons (480), which the
    service itself no longer does.
    """
    begun = session.log_in(account, by_operator=True)
    until = utc(begun.refresh_token_valid_until)
    click.echo(f"{account.company_nip} is logged in to {account.environment}, until {until}")


@command("logout")
@for_account
def log_out(account: Account) -> None:
    """Revoke a company's KSeF session.

    The stored credential stays.
    """
    session.log_out(account)
    click.echo(f"{account.company_nip} is logged out of {account.environment}")


@command("sessions")
@json_option
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
            for row in session.list_sessions(service().db)
        ],
        as_json,
    )


def _typed_or_piped(prompt: str, what: str) -> str:
    """A secret, as it is given."""
    if sys.stdin.isatty():
        typed: str = click.prompt(prompt, hide_input=True)
        return typed
    return line_from_stdin(what)
