"""The demo of `make run`: one company, its sessions in KSeF, its rows in PostgreSQL.

Everything is made from fixed seeds, so that a second run meets the data of the first: the same
reference numbers, the same KSeF numbers, and the rows as they were linked.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import psycopg2
import psycopg2.extras

from app import errors
from app.services import auth, users
from app.services.parts import Parts, Place
from app.settings import ENVIRONMENTS
from sandbox.control import Control, SeededSession

NIP = "5265877635"
NAME = "Przykładowa Spółka z o.o."
EMAIL = "erp@demo.example"
_KSEF_TOKEN = "demo|nip-{nip}|{environment}"  # noqa: S105 - known to the sandbox only
_CREATED = "2026-09-15T08:00:00+00:00"
_MOVES_FOR = 60  # seconds, from the start of `make run`


@dataclass(frozen=True)
class Demo:
    """What the page of `make run` talks about; sessions of the environment `test`."""

    online: SeededSession
    batch: SeededSession
    moving: SeededSession


def prepare(parts: Parts, control: Control, erp_dsn: str, password: str) -> Demo:
    """Make the demo, or what is missing of it."""
    _company(parts, password)
    demos = {environment: _sessions(control, environment) for environment in ENVIRONMENTS}
    for environment, demo in demos.items():
        _log_in(parts, control, environment)
        _rows(erp_dsn, environment, demo)
    return demos["test"]


def _company(parts: Parts, password: str) -> None:
    try:
        users.require_company(parts, NIP)
    except errors.OperatorError:
        users.add_company(parts, NIP, NAME)
        users.add_user(parts, email=EMAIL, nip=NIP, role="admin", password=password)


def _log_in(parts: Parts, control: Control, environment: str) -> None:
    place = Place(NIP, environment)
    token = control.add_token(
        environment, NIP, _KSEF_TOKEN.format(nip=NIP, environment=environment)
    )
    auth.set_token(parts, place, token)
    auth.log_in(parts, place)


def _sessions(control: Control, environment: str) -> Demo:
    number = ENVIRONMENTS.index(environment) + 1
    online = control.seed_session(
        environment,
        NIP,
        kind="online",
        reference_number=f"20260915-SO-0000000{number}A1-0000000001-0{number}",
        date_created=_CREATED,
        invoices=[
            {"invoiceNumber": "FV/2026/09/001"},
            {"invoiceNumber": "FV/2026/09/002 – żółta łódź"},
            {"invoiceNumber": "FV/2026/09/003", "status": 450},
        ],
    )
    batch = control.seed_session(
        environment,
        NIP,
        kind="batch",
        reference_number=f"20260915-SB-0000000{number}B2-0000000002-0{number}",
        date_created=_CREATED,
        invoices=[
            {"invoiceNumber": "FV/2026/09/101", "offline": True},
            {"invoiceNumber": "FV/2026/09/102", "offline": True},
            {
                "invoiceNumber": "FV/2026/09/001",
                "status": 440,
                "originalKsefNumber": online.ksef_numbers[0],
                "originalSessionReferenceNumber": online.reference_number,
            },
        ],
    )
    moving = control.seed_session(
        environment,
        NIP,
        kind="batch",
        state="moving",
        reference_number=f"20260915-SB-0000000{number}C3-0000000003-0{number}",
        date_created=_CREATED,
        finishes_after=_MOVES_FOR,
        invoices=[{"invoiceNumber": f"FV/2026/09/20{i}", "status": 150} for i in range(3)],
    )
    return Demo(online, batch, moving)


def _rows(erp_dsn: str, environment: str, demo: Demo) -> None:
    """The ERP's rows, not linked to any session, written as an ERP would write them."""
    synced = [
        (NIP, environment, invoice.ksef_number, invoice.invoice_number)
        for invoice in demo.online.invoices
        if invoice.ksef_number
    ]
    first, second, _duplicate = demo.batch.invoices
    offline = [
        (NIP, environment, first.invoice_number, demo.batch.reference_number),
        (NIP, environment, second.invoice_number, second.reference_number),
    ]
    with (
        closing(psycopg2.connect(erp_dsn)) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        psycopg2.extras.execute_values(
            cursor,
            "INSERT INTO synced_invoices"
            " (company_nip, environment, ksef_number, invoice_number) VALUES %s"
            " ON CONFLICT (company_nip, environment, ksef_number) DO NOTHING",
            synced,
        )
        psycopg2.extras.execute_values(
            cursor,
            "INSERT INTO offline_invoices"
            " (company_nip, environment, invoice_number, ksef_reference_number) VALUES %s"
            " ON CONFLICT (company_nip, environment, ksef_reference_number, invoice_number)"
            " DO NOTHING",
            offline,
        )
