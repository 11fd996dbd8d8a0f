"""The demo of `make run`: one company, its sessions in KSeF, its rows in PostgreSQL.

Everything is made from fixed seeds, so that a second run meets the data of the first: the same
reference numbers, the same KSeF numbers, and the rows as they were linked. In `demo` the company
logs in with a certificate, elsewhere with a KSeF token.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import psycopg2
import psycopg2.extras

from app import errors
from app.services import auth, certificates, users
from app.services.parts import Parts, Place
from app.settings import ENVIRONMENTS
from sandbox import identifiers
from sandbox.control import Control, SeededSession

NIP = "5265877635"
NAME = "Przykładowa Spółka z o.o."
EMAIL = "erp@demo.example"
_KSEF_TOKEN = "demo|nip-{nip}|{environment}"  # noqa: S105 - known to the sandbox only
_WITH_CERTIFICATE = "demo"
# UPOs of that environment name a signed login document in place of a token.
_DOCUMENT_HASH = identifiers.sha256_base64(b"the login document of the demo")
_CREATED = "2026-09-15T08:00:00+00:00"
_MOVES_FOR = 60  # seconds, from the start of `make run`


@dataclass(frozen=True)
class Demo:
    """What the page of `make run` talks about; sessions of the environment `test`."""

    online: SeededSession
    batch: SeededSession
    moving: SeededSession


def prepare(
    parts: Parts, control: Control, erp_dsn: str, password: str, certificate: bytes
) -> Demo:
    """Make the demo, or what is missing of it; `certificate` is PEM, its key with it."""
    _company(parts, password)
    demos = {environment: _sessions(control, environment) for environment in ENVIRONMENTS}
    for environment, demo in demos.items():
        if environment == _WITH_CERTIFICATE:
            _store_certificate(parts, control, certificate)
        else:
            _store_token(parts, control, environment)
        auth.log_in(parts, Place(NIP, environment))
        _rows(erp_dsn, environment, demo)
    return demos["test"]


def _company(parts: Parts, password: str) -> None:
    try:
        users.require_company(parts, NIP)
    except errors.OperatorError:
        users.add_company(parts, NIP, NAME)
        users.add_user(parts, email=EMAIL, nip=NIP, role="admin", password=password)


def _store_certificate(parts: Parts, control: Control, content: bytes) -> None:
    certificate = certificates.read(content, key=None, passphrase=None)
    control.add_certificate(_WITH_CERTIFICATE, NIP, fingerprint=certificate.fingerprint)
    auth.set_certificate(parts, Place(NIP, _WITH_CERTIFICATE), certificate)


def _store_token(parts: Parts, control: Control, environment: str) -> None:
    token = control.add_token(
        environment, NIP, _KSEF_TOKEN.format(nip=NIP, environment=environment)
    )
    auth.set_token(parts, Place(NIP, environment), token)


def _sessions(control: Control, environment: str) -> Demo:
    number = ENVIRONMENTS.index(environment) + 1
    document_hash = _DOCUMENT_HASH if environment == _WITH_CERTIFICATE else None
    online = control.seed_session(
        environment,
        NIP,
        kind="online",
        reference_number=f"20260915-SO-0000000{number}A1-0000000001-0{number}",
        date_created=_CREATED,
        login_document_hash=document_hash,
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
        login_document_hash=document_hash,
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
        login_document_hash=document_hash,
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
