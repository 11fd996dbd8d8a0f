"""The programs that the pages show, run against the service as an ERP runs them."""

import base64
import hmac
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import requests

from app.services.events import journal, webhooks
from sandbox.server import start
from tests.journeys.conftest import RunningService, free_port
from tests.pages import EXAMPLES
from tests.rows import offline_sessions, synced_sessions
from tests.sandbox.ksef_client import sha256
from tests.service import PASSWORD, Company

pytestmark = pytest.mark.slow

NIP = "5265877635"
CLIENTS = {
    "session.py": [sys.executable],
    "session_stdlib.py": [sys.executable],
    "Session.java": ["java"],
    "session.sh": ["sh"],
}
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, environments=("test",))


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")


@pytest.fixture
def run(server: RunningService, company: Company, tmp_path: Path) -> Run:
    """Runs an example in a folder of its own: `run(name, reference, url=…)`."""

    def run(name: str, reference: str, url: str = server.url) -> Any:
        for program in (CLIENTS[name][0], *(["curl"] if name.endswith(".sh") else [])):
            needs(program)
        return subprocess.run(
            [*CLIENTS[name], EXAMPLES / name, "test", reference],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "LANG": "C.UTF-8",
                "KSEF_SERVICE": url,
                "KSEF_USER": company.email,
                "KSEF_PASSWORD": PASSWORD,
                "KSEF_PAUSE": "1",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def posted(url: str, secret: str, sent: float, **changes: str) -> int:
    """The answer to a message that was signed at that time; of its headers some are changed."""
    body, message, at = b'{"type": "webhook.test"}', uuid.uuid4().hex, str(int(sent))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = hmac.digest(key, f"{message}.{at}.".encode() + body, "sha256")
    headers = {
        "webhook-id": message,
        "webhook-timestamp": at,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    return requests.post(url, body, headers=headers, timeout=30).status_code


def hang_up(port: int) -> None:
    """Begins a message, and breaks it off."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")


@pytest.mark.parametrize("command", [[sys.executable, "receiver.py"], ["node", "receiver.mjs"]])
def test_a_receiver_takes_what_is_genuine_and_prints_it_once(
    company: Company, command: list[str]
) -> None:
    program, name = command
    needs(program)
    service, account, port = company.service, company.account(), free_port()
    url = f"http://127.0.0.1:{port}/"
    secret = webhooks.add(account, url)
    environ = {"PATH": os.environ["PATH"], "WEBHOOK_SECRET": secret}
    began = datetime.now(UTC)
    with (
        subprocess.Popen(
            [program, EXAMPLES / name, str(port)], env=environ, stdout=subprocess.PIPE, text=True
        ) as receiver,
        ExitStack() as stack,
    ):
        stack.callback(receiver.kill)
        until = time.monotonic() + 30
        while not webhooks.test(service, account, url)[0]:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert posted(url, secret, sent=time.time()) == 204
        assert posted(url, secret, sent=time.time() - 400) == 401  # 204 would lose the event
        for odd in (
            {"webhook_timestamp": "soon"},
            {"webhook_signature": "v1,".ljust(47, "\u00f3")},
        ):
            assert posted(url, secret, time.time(), **odd) == 401
        assert requests.post(url, timeout=30).status_code == 401
        hang_up(port)
        with closing(socket.create_connection(("127.0.0.1", port), timeout=30)):  # says nothing
            assert posted(url, secret, sent=time.time()) == 204
        for reference in ("A", "B"):
            with service.db.transaction() as connection:
                journal.note(
                    connection,
                    journal.Kind.SESSION_STUCK,
                    **account.columns,
                    data={"referenceNumber": reference},
                )
        for _ in range(2):
            webhooks.deliver_due(service)
            assert webhooks.wait(15)
            [known] = webhooks.list_all(service, NIP)
            assert (known.waiting, known.parked, known.answer) == (0, 0, "204")
            webhooks.replay(account, url, began)
        webhooks.remove(account, url)
        webhooks.add(account, url)  # another secret
        assert webhooks.test(service, account, url) == (False, "401")
        receiver.terminate()
        assert receiver.stdout
        printed = receiver.stdout.read().splitlines()
    assert printed[-2:] == ["session.stuck A", "session.stuck B"]
    assert {line.strip() for line in printed[:-2]} == {"webhook.test"}


@pytest.mark.parametrize("name", CLIENTS)
def test_it_waits_for_the_session_and_fetches_each_upo(
    run: Run, name: str, control: Any, tmp_path: Path
) -> None:
    session = control.seed_session(
        "test",
        NIP,
        state="moving",
        finishes_after=3,
        invoices=[{"status": 150}, {"status": 150}, {"status": 440}],
    )
    control.fault("html-503", environment="test", path=f"{session.reference_number}$", times=2)
    done = run(name, session.reference_number)
    assert done.returncode == 0, done.stderr
    accepted = control.session("test", session.reference_number).ksef_numbers
    assert len(accepted) == 2
    assert "Duplikat faktury" in done.stdout
    assert all(number in done.stdout for number in accepted)
    assert {file.name for file in tmp_path.iterdir()} == {f"{n}-upo.pdf" for n in accepted}
    assert all(file.read_bytes().startswith(b"%PDF-") for file in tmp_path.iterdir())
    assert control.waiting_faults() == []


@pytest.mark.parametrize("name", CLIENTS)
def test_it_ends_where_repeating_will_not_help(run: Run, name: str, tmp_path: Path) -> None:
    done = run(name, "20260101-SO-0123456789-0123456789-01")
    assert done.returncode == 1, done.stdout
    assert "session_not_found" in done.stderr
    assert [*tmp_path.iterdir()] == []


def test_rows_are_written_as_the_erp_and_linked(
    database: Any, company: Company, control: Any
) -> None:
    """The numbers are those of the page; the rows are written twice, as an ERP may."""
    session = control.seed_session(
        "test",
        NIP,
        reference_number="20260915-SO-00000001A1-0000000001-01",
        invoices=[
            {"ksefNumber": "5265877635-20260915-20273DF0F2E7-F1"},
            {"status": 430, "invoiceHash": sha256("<Faktura>…</Faktura>".encode())},
        ],
    )

    def write_and_look() -> list[Any]:
        with closing(psycopg2.connect(database.erp_dsn)) as erp, erp, erp.cursor() as cursor:
            cursor.execute((EXAMPLES / "rows.sql").read_text("utf-8"))
            return cursor.fetchall()

    assert write_and_look() == write_and_look()
    assert [number for number, _ in write_and_look()] == [
        "FV/2026/09/001",
        "FV/2026/09/002",
        "FV/2026/09/003",
    ]
    company.get(f"/invoices/test/status/{session.reference_number}")
    assert write_and_look() == []
    account = company.account()
    assert [*synced_sessions(database, account).values()] == [session.reference_number]
    assert offline_sessions(database, account) == [
        (session.reference_number, session.reference_number),
        (None, session.reference_number),
    ]


def test_the_sandbox_takes_the_orders_that_its_page_shows() -> None:
    needs("curl")
    text = (EXAMPLES / "sandbox.sh").read_text("utf-8")
    with start() as sandbox:
        done = subprocess.run(
            ["sh", "-eu", "-c", text.replace("http://127.0.0.1:8090", sandbox.url)],
            capture_output=True,
            text=True,
            check=True,
        )
    assert '"token":"my-token"' in done.stdout
    assert '"status":440' in done.stdout
    assert '"kind":"rate-limited"' in done.stdout
    assert "error" not in done.stdout
