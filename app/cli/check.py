"""`check`: whether all that the service needs is there, a line for each."""

import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import click
from flask.cli import with_appcontext

from app import clock, errors, telemetry
from app.cli.front import Front, WrongError
from app.cli.output import printable
from app.context import service
from app.db import migrate, rights
from app.ksef import failures, latarnia, wire
from app.ksef.login import PUBLIC_KEYS
from app.service import Service
from app.services.login import credentials, session
from app.services.operators import keys
from app.settings import DEFAULT_KSEF_URLS, ENVIRONMENTS, SettingsError, misspelt

OK, WARNING, FAILED, NOT_TRIED = "ok", "warning", "failed", "not tried"
Finding = tuple[str, str]
"""One of these four, and a sentence."""
Check = tuple[str, Sequence[str], Callable[[], Finding]]
"""Its name, the checks that must not have failed before it, and what it does."""

MOST_RIGHTS = 10
"""More missing ones are not named one by one."""

CLOCK_WARNING = timedelta(seconds=30)
CLOCK_FAILURE = timedelta(minutes=5)  # a third of the life of KSeF's access tokens


@click.command("check")
@click.option(
    "--environment",
    "environments",
    multiple=True,
    type=click.Choice(ENVIRONMENTS),
    default=ENVIRONMENTS,
    help="Only the KSeF of this environment; may be repeated",
)
@click.option("--no-login", is_flag=True, help="Do not try the stored credentials")
@click.option("--url", help="Where callers reach the service, through the proxy in front of it")
@with_appcontext
def check(environments: Sequence[str], no_login: bool, url: str | None) -> None:
    """Check all that the service needs, and say what is wrong.

    A line for each: settings, database, rights, keys, KSeF, its clock, each stored credential (by a
    login, which is ended at once), and the proxy in front. Exit code 1 if anything failed.
    """
    telemetry.configure("CRITICAL")  # the lines say it all
    try:
        works = service()
    except SettingsError as error:
        _tell("settings", FAILED, str(error).removeprefix("Settings: "))
        _tell("all else", NOT_TRIED, "needs the settings")
        sys.exit(1)
    _tell("settings", *_settings())
    failed: set[str] = set()
    for name, needs, look in Checks(works, environments, not no_login, url).all():
        missing = [need for need in needs if need in failed]
        state, text = (NOT_TRIED, f"needs: {missing[0]}") if missing else _found(look)
        _tell(name, state, text)
        if state in (FAILED, NOT_TRIED):
            failed.add(name)
    sys.exit(1 if failed else 0)


def _settings() -> Finding:
    if not (wrong := misspelt()):
        return OK, "complete"
    return WARNING, f"complete, but {wrong[0]} is none of them: is {wrong[1]} meant?"


def _tell(name: str, state: str, text: str) -> None:
    click.echo(printable(f"{state:<9}  {name:<21}  {text}"))


def _found(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except errors.OutageSimulation as error:
        return WARNING, f"not tried: {error.detail}"
    except errors.ProxyError as error:
        return FAILED, error.in_full
    except (errors.OperatorError, WrongError) as error:
        return FAILED, str(error)
    except Exception as error:  # its text might quote a secret
        return FAILED, f"an unexpected error: {type(error).__name__}"


class Checks:
    """The checks in their order, and what later ones need of earlier ones."""

    def __init__(
        self, works: Service, environments: Sequence[str], login: bool, url: str | None
    ) -> None:
        self._works = works
        self._environments = environments
        self._login = login
        self._url = url
        self._credentials: Sequence[Any] = ()
        self._ahead: list[timedelta] = []  # our clock, of KSeF's

    def all(self) -> Iterator[Check]:
        """Every check, to be done before the next is asked for."""
        yield "database", (), self._database
        yield "schema", ("database",), self._schema
        yield "rights", ("schema",), self._rights
        yield "keys", ("schema",), self._keys
        if self._works.settings.ksef_proxy_url:
            yield "proxy", (), self._proxy
        for name in self._environments:
            yield f"ksef {name}", ("proxy",), partial(self._ksef, name)
            if upstream := self._works.upstreams[name].latarnia:
                yield f"latarnia {name}", ("proxy",), partial(self._latarnia, name, upstream)
        yield "clock", (), self._clock
        yield "certificates", ("schema",), self._certificates
        if self._login:
            yield "credentials", ("keys",), self._stored
            for row in self._credentials:
                needs, look = (f"ksef {row.environment}",), partial(self._prove, row)
                yield f"login {row.company_nip} {row.environment}", needs, look
        if self._url is not None:
            front = Front(self._url, self._works)
            yield "front", (), partial(self._front, front)
            yield "caller's address", ("front", "rights"), partial(self._address, front)

    def _database(self) -> Finding:
        with self._works.db.transaction() as connection:
            info, version = connection.info, connection.server_version // 10_000
            unfit = migrate.unfit_encoding(connection)
        here = info.host.startswith(("/", "127.")) or info.host in ("localhost", "::1")
        tls = info.ssl_attribute("protocol") if info.ssl_in_use else "no TLS"
        found = f"PostgreSQL {version} at {info.host}, {tls}, database {info.dbname}, {info.user}"
        for name in ("in_hot_standby", "default_transaction_read_only"):
            if info.parameter_status(name) == "on":
                return FAILED, f"{found}: it can only be read ({name} is on)"
        if unfit:
            return FAILED, f"{found}: {unfit}"
        if here or info.dsn_parameters.get("sslmode", "").startswith("verify-"):
            return OK, found
        if info.ssl_in_use:
            return WARNING, f"{found}: its certificate is not verified (sslmode=verify-full is)"
        return WARNING, f"{found}: all that is stored crosses the network in clear"

    def _schema(self) -> Finding:
        with self._works.db.transaction() as connection:
            return OK, f"migrated up to {migrate.check(connection)}"

    def _rights(self) -> Finding:
        with self._works.db.transaction() as connection:
            role = connection.info.user
            missing, owns_audit = rights.missing(connection), rights.owns_audit(connection)
            limitless = rights.missing_limits(connection)
        if len(missing) > MOST_RIGHTS:
            told = f"{', '.join(missing[:3])}, and {len(missing) - 3} more"
            cure = f"log in as {rights.ROLE}, or GRANT {rights.ROLE} TO {role}"
            return FAILED, f"{role} lacks {told}: {cure}"
        if missing:
            return FAILED, f"{role} lacks {', '.join(missing)}"
        if owns_audit:
            told = f"{role} owns the tables or is a superuser, so it may change its own audit"
            return WARNING, f"{told}: log in as {rights.ROLE}"
        if limitless:
            told = f"{role} has no {' and no '.join(limitless)}"
            return WARNING, f"{told}: ALTER ROLE {role} SET them, as `migrate` said"
        return OK, f"{role} has all that the migrations grant {rights.ROLE}"

    def _keys(self) -> Finding:
        names = ", ".join(self._works.vault.key_names)
        closed = keys.unreadable(self._works.db, self._works.vault)
        if closed:
            told = f"{len(closed)} stored secrets do not open, the first: {closed[0]}"
            return FAILED, f"SECRET_KEYS has {names}; {told}"
        return OK, f"SECRET_KEYS has {names} (newest first), and opens all that is stored"

    def _proxy(self) -> Finding:
        parts = urlsplit(self._works.settings.ksef_proxy_url or "")
        where = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        told = f"KSEF_PROXY_URL, {where[0]} port {where[1]}"
        try:
            socket.create_connection(where, self._works.timing.ksef_connect).close()
        except OSError as error:
            return FAILED, f"{told}: {error.strerror or error}"
        return OK, told

    def _ksef(self, environment: str) -> Finding:
        host = urlsplit(self._works.settings.ksef_urls[environment]).hostname
        try:
            answer = self._works.upstreams[environment].probe.send(PUBLIC_KEYS)
            wire.decode(list[wire.PublicKey], answer.body)
        except errors.KsefFailure as error:
            return FAILED, f"{host}: {error.in_full}"
        if date := failures.http_date(answer.headers.get("Date", "")):
            self._ahead.append(clock.now() - date)
        for other, url in DEFAULT_KSEF_URLS.items():
            if other != environment and host == urlsplit(url).hostname:
                return WARNING, f"{host} answers, but it is the KSeF of {other}"
        return OK, f"{host} answers"

    def _latarnia(self, environment: str, asked: latarnia.Latarnia) -> Finding:
        host = urlsplit(self._works.settings.latarnia_urls[environment]).hostname
        try:
            return OK, f"{host} says {asked.told()['status']}"
        except latarnia.FAILED as error:
            return FAILED, f"{host}: {failures.why(error) or str(error) or 'no answer in time'}"

    def _clock(self) -> Finding:
        if not self._ahead:
            return NOT_TRIED, "needs: a KSeF that answers"
        ahead = {"this machine": self._ahead[0]}
        with suppress(errors.Unavailable):
            ahead["the database"] = ahead["this machine"] + (self._works.db.now() - clock.now())
        who, most = max(ahead.items(), key=lambda one: abs(one[1]))
        seconds = round(most.total_seconds())
        found = (
            f"that of {who} is {abs(seconds)} s {'behind' if seconds < 0 else 'ahead of'} KSeF's"
        )
        if abs(most) >= CLOCK_FAILURE:
            return FAILED, found
        return WARNING if abs(most) >= CLOCK_WARNING else OK, found

    def _certificates(self) -> Finding:
        ends = sorted(
            (row.certificate_valid_until, row.company_nip, row.environment)
            for row in session.list_sessions(self._works.db)
            if row.certificate_valid_until
        )
        if not ends:
            return OK, "none is stored"
        end, nip, environment = ends[0]
        state, told = self._end(end)
        return state, f"the first that ends is that of {nip} in {environment}: {told}"

    def _end(self, end: datetime) -> Finding:
        """What is to be said of the end of a certificate."""
        left = end - clock.now()
        if left <= timedelta(0):
            return FAILED, f"it expired on {end:%Y-%m-%d}"
        soon = left <= timedelta(seconds=self._works.timing.certificate_warning)
        return WARNING if soon else OK, f"it is valid until {end:%Y-%m-%d}"

    def _stored(self) -> Finding:
        rows = session.list_sessions(self._works.db)
        self._credentials = [row for row in rows if row.environment in self._environments]
        return OK, f"{len(self._credentials)} stored"

    def _prove(self, row: Any) -> Finding:
        account = self._works.account(row.company_nip, row.environment)
        return OK, f"KSeF lets the company in with its {credentials.prove_stored(account)}"

    def _front(self, front: Front) -> Finding:
        end = front.ready()
        if end is None:
            return OK, "leads to the service, by http on this machine"
        state, told = self._end(end)
        return state, f"leads to the service; of its certificate: {told}"

    def _address(self, front: Front) -> Finding:
        own = front.address()
        address = ip_address(own.partition("/")[0])
        if any(address in proxies for proxies in self._works.settings.forwarded_allow_ips):
            return WARNING, f"not to be told from {own}, which is in FORWARDED_ALLOW_IPS itself"
        return OK, f"arrives: {own}"
