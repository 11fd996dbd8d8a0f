"""`company` and `user`: who may use the service."""

import click

from app import errors
from app.cli.options import Group, json_option, line_from_stdin
from app.cli.output import print_table
from app.context import service
from app.services.operators import companies, users

company = Group("company", help="Companies.")
user = Group("user", help="Users. Each belongs to one company.")


@company.command("add")
@click.argument("nip")
@click.argument("name")
def add_company(nip: str, name: str) -> None:
    """Add a company by its NIP."""
    users.add_company(service().db, nip, name)
    click.echo(f"company {nip} added")


@company.command("list")
@json_option
def list_companies(as_json: bool) -> None:
    """Show all companies."""
    rows = users.list_companies(service().db)
    print_table(
        ("nip", "name", "users", "state"),
        [(r.nip, r.name, r.users, "removed" if r.removed_at else None) for r in rows],
        as_json,
    )


@company.command("remove")
@click.argument("nip")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation")
def remove_company(nip: str, yes: bool) -> None:
    """Remove a company with its users and documents.

    Its credentials and KSeF sessions are removed too; its invoice rows and their links stay. Safe
    to interrupt and run again.
    """
    has = companies.holdings(service().db, nip)
    logged_in = f" (logged in to {', '.join(has.logged_in)})" if has.logged_in else ""
    click.echo(f"{nip} has {has.users} users and {has.credentials} credentials{logged_in},")
    click.echo(f"{has.answers} kept answers and {has.upos} archived UPOs: all of that is removed.")
    click.echo(f"Its {has.rows_that_stay} invoice rows stay.")
    if not yes and click.prompt("Type its NIP to remove it") != nip:
        raise errors.OperatorError("That is another NIP: nothing was removed.")
    for name in companies.remove(service(), nip):
        click.echo(f"KSeF did not end the session in {name}; it ends by itself within a week")
    click.echo(f"company {nip} removed")


@user.command("add")
@click.argument("email")
@click.option("--nip", required=True, help="NIP of the user's company")
@click.option("--role", required=True, type=click.Choice(users.ROLES), help="What the user may do")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input")
def add_user(email: str, nip: str, role: str, password_stdin: bool) -> None:
    """Add a user.

    Without --password-stdin a strong password is generated and shown once.
    """
    given = line_from_stdin("The password") if password_stdin else None
    password = users.add_user(
        service().db, service().passwords, email=email, nip=nip, role=role, password=given
    )
    click.echo(f"user {email} added")
    if given is None:
        click.echo(f"password: {password}")


@user.command("set-password")
@click.argument("email")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input")
def set_password(email: str, password_stdin: bool) -> None:
    """Give a user another password, from the next request on.

    Without --password-stdin a strong password is generated and shown once.
    """
    given = line_from_stdin("The password") if password_stdin else None
    password = users.set_password(service().db, service().passwords, email=email, password=given)
    click.echo(f"password of {email} changed")
    if given is None:
        click.echo(f"password: {password}")


@user.command("set-role")
@click.argument("email")
@click.argument("role", type=click.Choice(users.ROLES))
def set_role(email: str, role: str) -> None:
    """Change what a user may do, from the next request on."""
    users.set_role(service().db, email, role)
    click.echo(f"user {email} is {role}")


@user.command("disable")
@click.argument("email")
def disable_user(email: str) -> None:
    """Disable a user, from the next request on."""
    users.disable_user(service().db, email)
    click.echo(f"user {email} disabled")


@user.command("enable")
@click.argument("email")
def enable_user(email: str) -> None:
    """Let a disabled user in again, with the same password."""
    users.enable_user(service().db, email)
    click.echo(f"user {email} enabled")


@user.command("unlock")
@click.argument("email")
def unlock_user(email: str) -> None:
    """Forget a user's failed logins."""
    users.unlock_user(service().db, email)
    click.echo(f"user {email} unlocked")


@user.command("list")
@json_option
def list_users(as_json: bool) -> None:
    """Show all users."""
    rows = users.list_users(service().db)
    print_table(
        ("email", "nip", "role", "state"),
        [(r.email, r.company_nip, r.role, "disabled" if r.disabled_at else None) for r in rows],
        as_json,
    )
