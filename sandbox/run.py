"""`make run`: PostgreSQL, the sandbox KSeF and the service on this machine, with demo data.

Needs no settings. `PORT` (8080) is the service's port; with `DATABASE_URL` that PostgreSQL is used
in place of the embedded one. Everything kept stands in `.run`.
"""

import base64
import contextlib
import errno
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg2
import requests
from cryptography import x509

from app import settings, telemetry
from app.db.migrate import migrate
from app.service import Service
from app.settings import ENVIRONMENTS
from sandbox import demo, keys, postgres, server
from sandbox.control import Control
from sandbox.demo import Demo

PROJECT = Path(__file__).parents[1]
KEPT = PROJECT / ".run"
_DATABASE = "ksef_proxy"
_READY_SECONDS = 30.0


@dataclass(frozen=True)
class Databases:
    """The database as its owner, the service and an ERP see it; `place` is for the page."""

    owner: str
    service: str
    erp: str
    place: str


def main() -> None:
    """Bring everything up, print the page, wait for Ctrl-C, stop everything."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            _run(stack)
    except KeyboardInterrupt:
        print("\nStopped.")
    except (postgres.PostgresError, settings.SettingsError, _NotStarted) as error:
        sys.exit(str(error))


class _NotStarted(Exception):
    """The text is for the person at the terminal."""


def _run(stack: ExitStack) -> None:
    KEPT.mkdir(exist_ok=True)
    kept = _kept_secrets()
    host, port = _address(kept["secret_key"])
    _say("PostgreSQL")
    databases = stack.enter_context(_databases())
    _say("migrations")
    migrate(databases.owner)
    if databases.owner != databases.service:
        _execute(databases.owner, "ALTER ROLE ksef_proxy LOGIN; ALTER ROLE erp LOGIN")
    _say("sandbox KSeF")
    ksef = stack.enter_context(server.start(port=0 if _is_taken(port + 10) else port + 10))
    environment = _environment(databases, kept["secret_key"], ksef.url, port)
    with Control(ksef.url) as control:
        environment |= {
            f"UPO_SIGNERS_{name.upper()}": ",".join(control.signers(name)) for name in ENVIRONMENTS
        }
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in environment.items()]
    _write_private(KEPT / "env", "".join(lines))
    _say("demo data")
    shown = _prepare(environment, ksef.url, databases.erp, kept["password"], _kept_certificate())
    _say("gunicorn")
    service = stack.enter_context(_process("service", environment, "app", "serve"))
    base = f"http://{host}:{port}"
    _wait_until_ready(service, base)
    stack.enter_context(_process("follow", environment, "app", "follow"))
    print(_page(base, ksef.url, databases.place, kept["password"], shown), flush=True)
    service.wait()
    raise _NotStarted(f"gunicorn ended; its log: {KEPT / 'service.log'}")


def _say(what: str) -> None:
    print(f"  starting: {what}", flush=True)


def _address(secret_key: str) -> tuple[str, int]:
    """Where people reach the service, by HOST and PORT. Raises SettingsError if any setting is
    wrong, _NotStarted if nobody can listen there."""
    made_here = {"DATABASE_URL": "postgresql://", "SECRET_KEYS": secret_key}
    chosen = settings.from_environment(os.environ | made_here)
    host, port = chosen.host, chosen.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _NotStarted(
                f"Port {port} is taken. Choose another one: make run PORT=8000"
            ) from None
        raise _NotStarted(
            f"HOST={host} PORT={port}: nobody can listen there: {error.strerror}."
        ) from None
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    host = everywhere.get(host, host)
    return f"[{host}]" if ":" in host else host, port


def _is_taken(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _kept_secrets() -> dict[str, str]:
    """The key that seals KSeF's secrets and the demo user's password, made once."""
    file = KEPT / "secrets.json"
    if not file.exists():
        made = {
            "secret_key": base64.b64encode(os.urandom(32)).decode(),
            "password": secrets.token_urlsafe(12),
        }
        _write_private(file, json.dumps(made))
    kept: dict[str, str] = json.loads(file.read_text())
    return kept


def _kept_certificate() -> bytes:
    """The demo company's certificate and key: made once, and anew when it has ended."""
    file = KEPT / "certificate.pem"
    if file.exists():
        kept = file.read_bytes()
        if x509.load_pem_x509_certificate(kept).not_valid_after_utc > datetime.now(UTC):
            return kept
    _write_private(file, keys.make_seal(demo.NIP, demo.NAME).decode())
    return file.read_bytes()


@contextlib.contextmanager
def _databases() -> Iterator[Databases]:
    if url := os.environ.get("DATABASE_URL"):
        yield Databases(url, url, url, "that of DATABASE_URL")
        return
    with postgres.start(KEPT / "postgres", durable=True) as running:
        with contextlib.suppress(psycopg2.errors.DuplicateDatabase):
            _execute(running.dsn(), f"CREATE DATABASE {_DATABASE}")
        yield Databases(
            owner=running.dsn(_DATABASE),
            service=running.dsn(_DATABASE, "ksef_proxy"),
            erp=running.dsn(_DATABASE, "erp"),
            place=running.dsn(_DATABASE, "erp"),
        )


def _execute(dsn: str, statement: str) -> None:
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)


def _environment(databases: Databases, secret_key: str, ksef_url: str, port: int) -> dict[str, str]:
    return {
        "DATABASE_URL": databases.service,
        "SECRET_KEYS": secret_key,
        "PORT": str(port),
        **{f"KSEF_URL_{name.upper()}": f"{ksef_url}/{name}/v2" for name in ENVIRONMENTS},
        "LATARNIA_URL_PROD": f"{ksef_url}/latarnia/prod",
    }


def _write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text(text)


def _prepare(
    environment: dict[str, str], ksef_url: str, erp_dsn: str, password: str, certificate: bytes
) -> Demo:
    telemetry.configure("WARNING")
    service = Service(settings.from_environment(environment))
    try:
        with Control(ksef_url) as control:
            return demo.prepare(service, control, erp_dsn, password, certificate)
    finally:
        service.db.close()


@contextlib.contextmanager
def _process(
    name: str, environment: dict[str, str], *module: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module, run until the end of the block; it logs to a file of this name."""
    with (KEPT / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=PROJECT,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(service: subprocess.Popen[bytes], base: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    with requests.Session() as http:
        http.trust_env = False
        while time.monotonic() < deadline and service.poll() is None:
            with contextlib.suppress(requests.RequestException):
                if http.get(f"{base}/readyz", timeout=2).ok:
                    return
            time.sleep(0.05)
    log = (KEPT / "service.log").read_text(errors="replace").splitlines()[-20:]
    raise _NotStarted("\n".join([*log, "gunicorn did not start; the lines above are its log."]))


def _page(base: str, ksef_url: str, database: str, password: str, shown: Demo) -> str:
    curl = f"curl -sS -w '\\n' -u {shlex.quote(f'{demo.EMAIL}:{password}')}"
    status = f"{base}/invoices/test/status"
    online, batch, moving = (
        f"{status}/{session.reference_number}"
        for session in (shown.online, shown.batch, shown.moving)
    )
    upo = f"{online}/{shown.online.ksef_numbers[0]}/upo"
    command = shlex.join((f"{PROJECT}/.venv/bin/ksef-proxy", "--env-file", f"{KEPT}/env"))
    rows = f"invoices list --nip {demo.NIP} --environment test"
    rehearsal = f"{base}/outages/demo/simulation"
    other = f"{base}/invoices/demo/status/{shown.online.reference_number}"
    message = shlex.quote('{"message": "Próba trybu offline"}')
    prod = f'{curl} "{base}/invoices/prod/status/$R"'
    json_type = "-H 'Content-Type: application/json'"
    lines = {
        "What became of an online session; its rows in PostgreSQL are linked to it": (
            f"{curl} {online}"
        ),
        "A batch session, with a duplicate; rows of offline_invoices are linked": f"{curl} {batch}",
        "A session that KSeF still works on, for a minute; then it is finished": f"{curl} {moving}",
        "The UPO of an invoice as KSeF's signed XML, in JSON": f"{curl} {upo}",
        "… as an XML file, unchanged": f"{curl} -H 'Accept: application/xml' -o upo.xml {upo}",
        "… as a PDF": f"{curl} -H 'Accept: application/pdf' -o upo.pdf '{upo}?docType=pdf'",
        "The company's session with KSeF, logged in with a certificate in demo …": (
            f"{curl} {base}/auth/demo"
        ),
        "… and with a KSeF token in test and prod": f"{curl} {base}/auth/test",
        "Rehearse an outage in demo: on, the answer (409), off again": (
            f"{curl} -X PUT {json_type} -d {message} {rehearsal}; {curl} {other};"
            f" {curl} -X DELETE {rehearsal}"
        ),
        "Take KSeF's prod down: 502 while it may pass, 409 with evidence after 10 s": (
            f"{_prod(ksef_url, api='false', latarnia='AVAILABLE')}"
            f" for i in 1 2 3 4 5 6 7; do {prod}; sleep 2; done"
        ),
        "… and Latarnia says so: 409 with its words (if it was asked already, after a minute)": (
            f"{_prod(ksef_url, api='false', latarnia='FAILURE')}"
            f" until {_seen(prod, 'source.:.latarnia')}; do sleep 5; done"
        ),
        "… and up again: 200, after 30 s at most": (
            f"{_prod(ksef_url, api='true', latarnia='AVAILABLE')}"
            f" until {_seen(prod, 'final.:true')}; do sleep 3; done"
        ),
        "What is known of it, for programs and people": f"curl -sS -w '\\n' {base}/status",
        "The company's invoice rows, and the sessions that they are linked to": (
            f"{command} {rows}"
        ),
        "The API, for programs": f"curl -sS {base}/openapi.json",
    }
    numbered = (
        f"{number:2}  {title}\n    {line}" for number, (title, line) in enumerate(lines.items(), 1)
    )
    return "\n".join(
        [
            "",
            f"ksef-proxy is up: {base}    Ctrl-C stops everything.",
            "",
            f"    company    {demo.NIP}  {demo.NAME}",
            f"    user       {demo.EMAIL}  password {password}",
            f"    console    {base}/console  (in a browser, with that user and password:",
            "               an environment, a session of it, and PDF beside an invoice is a UPO)",
            f"    KSeF       the sandbox at {ksef_url} stands in for test, demo and prod",
            f"    logged in  in demo with a certificate ({KEPT / 'certificate.pem'}),",
            "               in test and prod with a KSeF token",
            f"    database   {database}",
            "               (of your invoice rows, as the role erp; psql and drivers take it)",
            f"    logs       {KEPT / 'service.log'}, {KEPT / 'follow.log'} (sessions followed)",
            "",
            *numbered,
            "",
        ]
    )


def _seen(command: str, pattern: str) -> str:
    """Shell: shows what a command prints, and succeeds where that has the pattern."""
    return f"""A=$({command}); printf '%s\\n' "$A"; printf %s "$A" | grep -q {pattern}"""


def _prod(ksef_url: str, *, api: str, latarnia: str) -> str:
    """Shell: a session $R of prod that was never asked for, so that no answer is kept of it, and
    then the states of prod's API (`true`, `false`) and Latarnia."""
    control = f"{ksef_url}/_sandbox"
    session = f'{{"nip":"{demo.NIP}","referenceNumber":"\'$R\'","invoices":1}}'
    quiet = "curl -sS -o /dev/null"
    return (
        f"R=20260915-SO-$(date +%s)-0000000004-04; {quiet} -d '{session}' {control}/prod/sessions;"
        f""" {quiet} -X PUT -d '{{"available":{api}}}' {control}/prod/api;"""
        f""" {quiet} -X PUT -d '{{"status":"{latarnia}"}}' {control}/latarnia/prod;"""
    )


if __name__ == "__main__":
    main()
