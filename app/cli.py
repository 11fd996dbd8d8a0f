"""The operator's commands: `flask --app wsgi …`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, TextIO

import click
import orjson
from flask import Flask
from flask.cli import AppGroup, with_appcontext

from app import errors
from app.api.context import parts, settings
from app.db import migrate
from app.services import (
    audit,
    auth,
    backfill,
    certificates,
    companies,
    documents,
    invoices,
    keys,
    outages,
    quota,
    upo,
    users,
)
from app.services.parts import Place
from app.settings import ENVIRONMENTS, SettingsError

Command = Callable[..., None]

json_option = click.option("--json", "as_json", is_flag=True, help="A JSON list, for programs")
environment_argument = click.argument("environment", type=click.Choice(ENVIRONMENTS))


def register(app: Flask) -> None:
    """Add every command to the application."""
    for command in (
        migrate_command,
        company,
        user,
        credential,
        log_in,
        log_out,
        sessions,
        outage,
        invoices_group,
        link,
        upo_group,
        quota_group,
        rotate_keys,
        purge,
        audit_group,
    ):
        app.cli.add_command(command)


def hide_others(app: Flask) -> None:
    """Take flask-smorest's own commands away: /openapi.json gives the contract."""
    app.cli.commands.pop("openapi", None)


def is_running() -> bool:
    """Whether this process runs a command, and is no server."""
    return click.get_current_context(silent=True) is not None


def told_plainly(command: Command) -> Command:
    """What cannot be done is told in a sentence, with exit code 1, without a stack trace."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (errors.OperatorError, SettingsError) as error:
            raise click.ClickException(str(error)) from error
        except errors.ProxyError as error:
            raise click.ClickException(error.detail) from error
        except BrokenPipeError:
            raise  # whoever read has gone away: click ends in silence
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise click.ClickException(f"{error.strerror or 'It failed'}{where}") from error
        except UnicodeError as error:
            raise click.ClickException("What was given is not UTF-8.") from error

    return run


def for_place(command: Command) -> Command:
    """Options --nip and --environment, handed on as one checked Place."""

    @click.option("--nip", required=True, help="NIP of the company")
    @click.option(
        "--environment", required=True, type=click.Choice(ENVIRONMENTS), help="KSeF environment"
    )
    @wraps(command)
    def run(nip: str, environment: str, **kwargs: Any) -> None:
        users.require_company(parts(), nip)
        command(place=Place(nip, environment), **kwargs)

    return run


@click.command("migrate")
@with_appcontext
@told_plainly
def migrate_command() -> None:
    """Bring the database up to date.

    DATABASE_URL names it, with a role that owns it.
    """
    applied = migrate.migrate(settings().database_url)
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("up to date")


company = AppGroup("company", help="Companies.")


@company.command("add")
@click.argument("nip")
@click.argument("name")
@told_plainly
def add_company(nip: str, name: str) -> None:
    """Enter a company by its NIP."""
    users.add_company(parts(), nip, name)
    click.echo(f"company {nip} added")


@company.command("remove")
@click.argument("nip")
@click.option("--yes", is_flag=True, help="Do not ask")
@told_plainly
def remove_company(nip: str, yes: bool) -> None:
    """Remove a company with its users and documents.

    Its credentials and KSeF sessions go too. Its invoice rows stay, linked as they are. May be
    broken off and begun again.
    """
    has = companies.holdings(parts(), nip)
    logged_in = f" (logged in to {', '.join(has.logged_in)})" if has.logged_in else ""
    click.echo(f"{nip} has {has.users} users and {has.credentials} credentials{logged_in},")
    click.echo(f"{has.answers} kept answers and {has.upos} archived UPOs: all of that is removed.")
    click.echo(f"Its {has.rows_that_stay} invoice rows stay.")
    if not yes and click.prompt("Type its NIP to remove it") != nip:
        raise errors.OperatorError("That is another NIP: nothing was removed.")
    for name in companies.remove(parts(), nip):
        click.echo(f"KSeF did not end the session in {name}; it ends by itself within a week")
    click.echo(f"company {nip} removed")


user = AppGroup("user", help="Users, each of one company.")


@user.command("add")
@click.argument("email")
@click.option("--nip", required=True, help="NIP of the user's company")
@click.option("--role", required=True, type=click.Choice(users.ROLES), help="What it may do")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input")
@told_plainly
def add_user(email: str, nip: str, role: str, password_stdin: bool) -> None:
    """Enter a user.

    Without --password-stdin a strong password is made and shown once.
    """
    given = _line_of(sys.stdin) if password_stdin else None
    password = users.add_user(parts(), email=email, nip=nip, role=role, password=given)
    click.echo(f"user {email} added")
    if given is None:
        click.echo(f"password: {password}")


@user.command("disable")
@click.argument("email")
@told_plainly
def disable_user(email: str) -> None:
    """Shut a user out, from its next request on."""
    users.disable_user(parts(), email)
    click.echo(f"user {email} disabled")


@user.command("list")
@json_option
@told_plainly
def list_users(as_json: bool) -> None:
    """Show all users."""
    rows = users.list_users(parts())
    _table(
        ("email", "nip", "role", "state"),
        [(r.email, r.company_nip, r.role, "disabled" if r.disabled_at else None) for r in rows],
        as_json,
    )


credential = AppGroup("credential", help="With what a company logs in to KSeF.")


@credential.command("set-token")
@told_plainly
@for_place
def set_token(place: Place) -> None:
    """Store a KSeF token, sealed.

    It is read from standard input, or asked for.
    """
    given = click.prompt("KSeF token", hide_input=True) if sys.stdin.isatty() else None
    auth.set_token(parts(), place, given or _line_of(sys.stdin))
    click.echo(f"KSeF token of {place.company_nip} stored for {place.environment}")


@click.command("login")
@with_appcontext
@told_plainly
@for_place
def log_in(place: Place) -> None:
    """Log a company in to KSeF.

    Also with a credential that KSeF's security had blocked.
    """
    session = auth.log_in(parts(), place, by_operator=True)
    until = _moment(session.refresh_token_valid_until)
    click.echo(f"{place.company_nip} is logged in to {place.environment}, until {until}")


@click.command("logout")
@with_appcontext
@told_plainly
@for_place
def log_out(place: Place) -> None:
    """Revoke a company's KSeF session.

    The credential stays.
    """
    auth.log_out(parts(), place)
    click.echo(f"{place.company_nip} is logged out of {place.environment}")


@click.command("sessions")
@with_appcontext
@json_option
@told_plainly
def sessions(as_json: bool) -> None:
    """Show who is logged in to KSeF.

    Where, since when, until when and with what; and which credential KSeF refuses.
    """
    _table(
        ("nip", "environment", "method", "since", "access until", "refresh until", "state"),
        [
            (
                row.company_nip,
                row.environment,
                row.method,
                row.authenticated_at,
                row.access_token_valid_until,
                row.refresh_token_valid_until,
                f"refused ({row.refused_code}) since {_moment(row.refused_at)}"
                if row.refused_code
                else ("logged in" if row.authenticated_at else "logged out"),
            )
            for row in auth.list_sessions(parts())
        ],
        as_json,
    )


@credential.command("set-certificate")
@click.option(
    "--certificate",
    "file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PKCS#12, or the certificate in PEM, with or without its key",
)
@click.option(
    "--key",
    "key_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The private key in PEM, where it stands in a file of its own",
)
@click.option(
    "--passphrase-stdin", is_flag=True, help="Read the key's passphrase from standard input"
)
@click.option("--no-verify", is_flag=True, help="Store it without a login that proves it")
@told_plainly
@for_place
def set_certificate(
    place: Place, file: Path, key_file: Path | None, passphrase_stdin: bool, no_verify: bool
) -> None:
    """Store a certificate with its key, sealed.

    Once a login with it has succeeded, unless --no-verify.
    """
    certificate = certificates.read(
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


outage = AppGroup("outage", help="Simulated outages of KSeF.")


@outage.command("simulate")
@environment_argument
@click.option("--message", required=True, help="What callers are told")
@click.option("--until", type=click.DateTime(), help="UTC, for example 2026-12-31T18:00:00")
@click.option("--nip", help="Only for this company; else for all")
@told_plainly
def simulate(environment: str, message: str, until: datetime | None, nip: str | None) -> None:
    """Begin a simulation (test and demo only)."""
    if nip is not None:
        users.require_company(parts(), nip)
    ends_at = until.replace(tzinfo=UTC) if until else None
    outages.simulate(parts(), environment, company_nip=nip, message=message, ends_at=ends_at)
    click.echo(f"{environment}: outage simulated")


@outage.command("clear")
@environment_argument
@told_plainly
def clear(environment: str) -> None:
    """End all simulations of an environment."""
    ended = outages.clear_all(parts(), environment)
    click.echo(f"{environment}: {ended} simulation(s) ended")


invoices_group = AppGroup("invoices", help="The company's own invoice rows.")


@invoices_group.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@told_plainly
@for_place
def import_invoices(file: Path, place: Place) -> None:
    """Bring in rows from a CSV file.

    Its columns: invoice_number, ksef_number, ksef_reference_number. All of it or nothing; rows
    that are there already stay as they are.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            imported = invoices.import_csv(parts(), place, lines)
    except UnicodeDecodeError as error:
        raise errors.OperatorError("The file is not UTF-8.") from error
    click.echo(
        f"{imported.rows} rows read: {imported.synced} new in synced_invoices, "
        f"{imported.offline} new in offline_invoices"
    )


@invoices_group.command("list")
@click.option("--unlinked", is_flag=True, help="Only rows without a session")
@json_option
@told_plainly
@for_place
def list_invoices(place: Place, unlinked: bool, as_json: bool) -> None:
    """Show the company's rows of both tables."""
    rows = invoices.list_rows(parts(), place, unlinked=unlinked)
    _table(
        ("table", "invoice_number", "ksef_number", "ksef_reference_number", "session"),
        [
            (
                r.kind,
                r.invoice_number,
                r.ksef_number,
                r.ksef_reference_number,
                r.session_reference_number,
            )
            for r in rows
        ],
        as_json,
    )


@click.command("link")
@with_appcontext
@told_plainly
@for_place
def link(place: Place) -> None:
    """Link everything that is not linked.

    From KSeF's own list of the company's sessions. May be broken off and begun again. Leaves half
    of KSeF's quota to live traffic.
    """
    with _progress("sessions") as progress:
        summary = backfill.link_history(parts(), place, progress)
    _tell(summary, "sessions checked and linked")


upo_group = AppGroup("upo", help="UPOs.")


@upo_group.command("archive")
@told_plainly
@for_place
def archive_upos(place: Place) -> None:
    """Fetch the UPOs that the archive lacks.

    Those of linked invoices. May be broken off and begun again. Leaves half of KSeF's quota to
    live traffic.
    """
    with _progress("UPOs") as progress:
        summary = backfill.archive_upos(parts(), place, progress)
    _tell(summary, "UPOs archived")


@upo_group.command("render")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the PDF is written",
)
@click.option(
    "--language",
    type=click.Choice(("pl", "en")),
    default="pl",
    show_default=True,
    help="Of the PDF's own words",
)
@told_plainly
def render(file: Path, output: Path, language: str) -> None:
    """Draw the PDF of a UPO's XML file.

    Needs no database and no KSeF.
    """
    output.write_bytes(upo.render(file.read_bytes(), language=language))
    click.echo(f"{output} written")


quota_group = AppGroup("quota", help="KSeF's quota, as all replicas have used it.")


@quota_group.command("show")
@json_option
@told_plainly
@for_place
def show_quota(place: Place, as_json: bool) -> None:
    """Show the calls and limits of each group.

    Calls of the last minute and hour, limits by second, minute and hour, and until when KSeF
    blocks a group.
    """
    _table(
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


@quota_group.command("clear")
@told_plainly
@for_place
def clear_quota(place: Place) -> None:
    """Lift the blocks that KSeF's 429 have set.

    Calls are counted on.
    """
    click.echo(f"{quota.clear(parts(), place)} block(s) lifted")


@click.command("rotate-keys")
@with_appcontext
@told_plainly
def rotate_keys() -> None:
    """Seal stored secrets with the newest key.

    The first of SECRET_KEYS. May be broken off and begun again, while the service runs with the
    same SECRET_KEYS.
    """
    with _progress("secrets") as progress:
        done = keys.rotate(parts(), progress)
    click.echo(f"{done.sealed} secrets sealed with the newest key")
    if done.unreadable:
        raise errors.OperatorError(
            f"{done.unreadable} do not open: their key is not in SECRET_KEYS, or the row was moved."
        )


@click.command("purge")
@with_appcontext
@told_plainly
def purge() -> None:
    """Delete documents older than DOCUMENT_RETENTION_DAYS.

    Documents are kept answers and archived UPOs. Links in the companies' rows stay. For cron: may
    be broken off and begun again, beside live traffic.
    """
    days = settings().document_retention_days
    if days is None:
        raise errors.OperatorError("DOCUMENT_RETENTION_DAYS is not set: documents are kept.")
    deleted = documents.purge(parts(), days)
    click.echo(f"{deleted.answers} kept answers and {deleted.upos} archived UPOs deleted")


audit_group = AppGroup("audit", help="Who did what, when.")


@audit_group.command("list")
@click.option("--nip", help="Only of this company")
@click.option(
    "--what", type=click.Choice([act.value for act in audit.What]), help="Only these acts"
)
@click.option("--since", type=click.DateTime(), help="UTC, for example 2026-12-31T18:00:00")
@click.option("--most", type=click.IntRange(1), default=100, show_default=True, help="So many rows")
@json_option
@told_plainly
def list_audit(
    nip: str | None, what: str | None, since: datetime | None, most: int, as_json: bool
) -> None:
    """Who did what, the newest first."""
    since = since.replace(tzinfo=UTC) if since else None
    _table(
        ("at", "who", "what", "nip", "environment", "detail", "address", "request"),
        [
            (
                row.at,
                row.who,
                row.what,
                row.company_nip,
                row.environment,
                row.detail,
                row.address,
                row.request_id,
            )
            for row in audit.newest(parts(), nip=nip, what=what, since=since, most=most)
        ],
        as_json,
    )


@audit_group.command("purge")
@click.option("--days", required=True, type=click.IntRange(1), help="Keep so many days")
@told_plainly
def purge_audit(days: int) -> None:
    """Delete older rows of the audit.

    Needs a DATABASE_URL of the database's owner.
    """
    try:
        deleted = audit.purge(parts(), days)
    except errors.NotWritable as error:
        raise errors.OperatorError(
            "Only the owner of the database may do that; the service's role may not."
        ) from error
    click.echo(f"{deleted} rows deleted")


@contextmanager
def _progress(what: str) -> Iterator[backfill.Progress]:
    """A bar, or a count where nobody knows how much there is; on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with ExitStack() as shown:
        bars: list[Any] = []

        def show(done: int, total: int | None) -> None:
            if total is None:
                click.echo(f"\r{done} {what}", err=True, nl=False)
                return
            if not bars:
                bar = click.progressbar(length=total, label=what, show_pos=True, file=sys.stderr)
                bars.append(shown.enter_context(bar))
            bars[0].update(done - bars[0].pos)

        yield show
        if not bars:
            click.echo("", err=True)


def _tell(summary: backfill.Summary, what: str) -> None:
    click.echo(f"{summary.done} of {summary.seen} {what}")
    if summary.failed:
        raise errors.OperatorError(f"{summary.failed} failed, the last one: {summary.reason}")


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]], as_json: bool) -> None:
    """Columns for a person, or a JSON list with an object a row.

    What others wrote (a message, an invoice's number) cannot steer the terminal.
    """
    if as_json:
        names = [name.replace(" ", "_") for name in header]
        objects = [dict(zip(names, row, strict=True)) for row in rows]
        click.echo(orjson.dumps(objects, option=orjson.OPT_INDENT_2))
        return
    lines = [header, *(tuple(map(_cell, row)) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return _moment(value)
    text = "" if value is None else str(value)
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _moment(moment: datetime | None) -> str:
    """UTC, to the second; empty for none."""
    return moment.astimezone(UTC).isoformat(timespec="seconds") if moment else ""


def _passphrase() -> str:
    """As it is given, blanks and all: they may be part of it."""
    if sys.stdin.isatty():
        typed: str = click.prompt("Passphrase", hide_input=True)
        return typed
    return sys.stdin.readline().rstrip("\r\n")


def _line_of(stream: TextIO) -> str:
    return stream.readline().strip()
