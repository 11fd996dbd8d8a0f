"""The demo of `make run`: one company, its sessions in KSeF, its rows in PostgreSQL.

Everything is made from fixed seeds, so that a second run meets the data of the first: the same
reference numbers, the same KSeF numbers, and the rows as they were linked. In `demo` the company
logs in with a certificate, elsewhere with a KSeF token.
"""

from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg2
import psycopg2.extras

from app import errors
from app.account import Account
from app.ksef import limits
from app.service import Service
from app.services.login import certificates, credentials, session
from app.services.operators import quotas, users
from app.services.sessions.check import check_session
from app.settings import ENVIRONMENTS
from sandbox import identifiers
from sandbox.control import Control, SeededSession

NIP = "5265877635"
NAME = "Przykładowa Spółka z o.o."
EMAIL = "erp@demo.example"
_WITH_CERTIFICATE = "demo"
# UPOs of that environment name a signed login document in place of a token.
_DOCUMENT_HASH = identifiers.sha256_base64(b"the login document of the demo")
_CREATED = "2026-09-15T08:00:00+00:00"
_SENT_BEFORE = {
    "status": 440,
    "originalKsefNumber": "5265877635-20260901-71CF780F031B-37",
    "originalSessionReferenceNumber": "20260901-SO-00000009F9-0000000007-01",
}
_MOVES_FOR = 60  # seconds, from the start of `make run`
# What the console finds: sessions of other days, asked after already. Their day and hour, their
# kind, how many invoices were accepted, and the codes of the others.
_EARLIER = (
    ("2026-09-09T06:12:00+00:00", "SB", 318, (440, 440, 450)),
    ("2026-09-10T09:40:00+00:00", "SO", 12, ()),
    ("2026-09-11T07:05:00+00:00", "SB", 0, None),
    ("2026-09-11T07:31:00+00:00", "SB", 96, ()),
    ("2026-09-14T05:55:00+00:00", "SO", 4, (410,)),
    ("2026-09-14T12:20:00+00:00", "SO", 27, ()),
)
_UNREADABLE_PACKAGE = 430
_UNTOUCHED = 30  # calls of a group: more than this start makes, less than an hour of polling
# As if the ERP had polled for an hour: calls of each group in each five minutes, the newest last.
_POLLED = {
    limits.SESSION: (6, 9, 14, 22, 31, 26, 18, 12, 9, 15, 21, 8),
    limits.INVOICE_LIST: (1, 2, 2, 5, 8, 6, 3, 2, 1, 3, 4, 1),
    limits.INVOICE: (0, 0, 3, 8, 19, 24, 11, 6, 2, 0, 4, 2),
    limits.SESSION_LIST: (0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0),
}


@dataclass(frozen=True)
class Demo:
    """What the page of `make run` talks about; sessions of the environment `test`."""

    online: SeededSession
    batch: SeededSession
    moving: SeededSession


def prepare(
    service: Service, control: Control, erp_dsn: str, password: str, certificate: bytes
) -> Demo:
    """Make the demo, or what is missing of it; `certificate` is PEM, its key with it."""
    _company(service, password)
    demos = {environment: _sessions(control, environment) for environment in ENVIRONMENTS}
    for environment, demo in demos.items():
        account = service.account(NIP, environment)
        _forget(account, demo.moving)
        if environment == _WITH_CERTIFICATE:
            read = certificates.read(service.db, certificate, key=None, passphrase=None)
            control.add_certificate(environment, NIP, fingerprint=read.fingerprint)
            credentials.store_certificate(account, read)
        else:
            token = f"demo|nip-{NIP}|{environment}"  # known to the sandbox only
            credentials.store_token(account, control.add_token(environment, NIP, token))
        session.log_in(account)
        _rows(erp_dsn, environment, demo)
        _ask_after_earlier_sessions(account, control)
    return demos["test"]


def _company(service: Service, password: str) -> None:
    try:
        users.require_company(service.db, NIP)
    except errors.OperatorError:
        users.add_company(service.db, NIP, NAME)
        users.add_user(
            service.db, service.passwords, email=EMAIL, nip=NIP, role="admin", password=password
        )


def _sessions(control: Control, environment: str) -> Demo:
    number = ENVIRONMENTS.index(environment) + 1
    online = _seed(
        control,
        environment,
        reference_number=f"20260915-SO-0000000{number}A1-0000000001-0{number}",
        invoices=[{"invoiceNumber": "FV/2026/09/001"}, _SENT_BEFORE],
    )
    batch = _seed(
        control,
        environment,
        kind="batch",
        reference_number=f"20260915-SB-0000000{number}B2-0000000002-0{number}",
        invoices=[
            {"invoiceNumber": "FV/2026/09/101 – żółta łódź", "offline": True},
            {"invoiceNumber": "FV/2026/09/102", "offline": True},
            {
                "invoiceNumber": "FV/2026/09/001",
                "status": 440,
                "originalKsefNumber": online.ksef_numbers[0],
                "originalSessionReferenceNumber": online.reference_number,
            },
        ],
    )
    moving = _seed(
        control,
        environment,
        kind="batch",
        state="moving",
        reference_number=f"20260915-SB-0000000{number}C3-0000000003-0{number}",
        finishes_after=_MOVES_FOR,
        invoices=[{"invoiceNumber": f"FV/2026/09/20{i}", "status": 150} for i in range(3)],
    )
    return Demo(online, batch, moving)


def _seed(control: Control, environment: str, **options: Any) -> SeededSession:
    options.setdefault("date_created", _CREATED)
    if environment == _WITH_CERTIFICATE:
        options["login_document_hash"] = _DOCUMENT_HASH
    return control.seed_session(environment, NIP, **options)


def _ask_after_earlier_sessions(account: Account, control: Control) -> None:
    """Sessions whose answers are kept, and an hour of the quota's ledger."""
    for number, (created, kind, accepted, others) in enumerate(_EARLIER):
        codes = [200] * accepted + list(others or ())
        earlier = _seed(
            control,
            account.environment,
            kind="batch" if kind == "SB" else "online",
            state="failed" if others is None else "finished",
            code=_UNREADABLE_PACKAGE if others is None else None,
            reference_number=_reference(kind, created, f"{account.environment} {number}"),
            date_created=created,
            invoices=[
                {"invoiceNumber": f"FV/2026/09/{number}{i:03}", "status": code}
                for i, code in enumerate(codes, 1)
            ],
        )
        _ask_after(account, earlier)
    moving = _seed(
        control,
        account.environment,
        state="moving",
        reference_number=_reference("SO", _CREATED, f"{account.environment} moving"),
        finishes_after=_MOVES_FOR * 10,
        invoices=[{}, {}, {"status": 150}, {"status": 150}],
    )
    _forget(account, moving)
    _ask_after(account, moving)
    if not any(use.per_hour > _UNTOUCHED for use in quotas.last_hour(account)):
        _write_ledger(account)


def _reference(kind: str, created: str, seed: str) -> str:
    return identifiers.reference_number(kind, datetime.fromisoformat(created).date(), seed)


def _ask_after(account: Account, seeded: SeededSession) -> None:
    """Unless an outage, simulated or real, was left on by the run before this one."""
    with suppress(errors.OutageSimulation, errors.KsefOutage):
        check_session(account, seeded.reference_number)


def _forget(account: Account, moving: SeededSession) -> None:
    """Delete the answer of the run before this one, in which it was finished in the end."""
    for table, column in (
        ("kept_invoices", "session_reference_number"),
        ("kept_sessions", "reference_number"),
    ):
        with account.db.transaction() as connection, connection.cursor() as cursor:
            cursor.execute(
                f"DELETE FROM {table} WHERE company_nip = %s AND environment = %s"  # noqa: S608
                f" AND {column} = %s",
                (*account.columns.values(), moving.reference_number),
            )


def _write_ledger(account: Account) -> None:
    calls = [
        (*account.columns.values(), group, (len(counts) - slot) * quotas.SLOT - 1 - 5 * i)
        for group, counts in _POLLED.items()
        for slot, count in enumerate(counts)
        for i in range(count)
    ]
    with account.db.transaction() as connection, connection.cursor() as cursor:
        psycopg2.extras.execute_values(
            cursor,
            "INSERT INTO quota_calls (company_nip, environment, quota_group, reserved_at)"
            " VALUES %s",
            calls,
            template="(%s, %s, %s, clock_timestamp() - make_interval(secs => %s))",
        )


def _rows(erp_dsn: str, environment: str, demo: Demo) -> None:
    """The ERP's rows, not linked to any session, written as an ERP would write them."""
    synced = [
        (NIP, environment, invoice.ksef_number, invoice.invoice_number)
        for invoice in demo.online.invoices
        if invoice.ksef_number
    ]
    first, second, _duplicate = demo.batch.invoices
    offline = [
        (NIP, environment, demo.batch.reference_number, first.invoice_number),
        (NIP, environment, second.reference_number, second.invoice_number),
    ]
    with (
        closing(psycopg2.connect(erp_dsn)) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        for table, number, rows in (
            ("synced_invoices", "ksef_number", synced),
            ("offline_invoices", "ksef_reference_number", offline),
        ):
            psycopg2.extras.execute_values(
                cursor,
                f"INSERT INTO {table} (company_nip, environment, {number}, invoice_number)"  # noqa: S608
                " VALUES %s ON CONFLICT DO NOTHING",
                rows,
            )
