"""Row 40 of the fault matrix: clients that would hold a server's threads; without nginx.

Beside each kind of them a remembered caller is answered almost as if it were alone, and `/livez`
answers; in the end all of them are closed. Times are compared within one run, in turns with and
without them, since others use the machine.
"""

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from app.services.operators import users
from tests.faults.conftest import NIP, serve
from tests.journeys.conftest import RunningService
from tests.journeys.test_bad_clients import LIVEZ, POST, connect
from tests.journeys.test_load import status_path
from tests.journeys.test_tokens_end_together import workers
from tests.service import PASSWORD, Company, basic

pytestmark = [pytest.mark.fault(40), pytest.mark.slow]

CONNECTIONS = 30
ROUNDS = 5
CALLS = 100  # of a round
TIMES = 5  # so much longer may the slowest call but one in a hundred take
LEAST = 0.004  # seconds that it takes alone, for this purpose: a scheduler's turn
CLOSED = 15  # seconds: five, and what a busy machine takes


def half_a_head(client: socket.socket) -> None:
    client.sendall(LIVEZ)


def a_dripping_head(client: socket.socket) -> None:
    client.sendall(LIVEZ + b"X-Part: ")
    for _ in range(30):
        client.sendall(b"x")
        time.sleep(0.3)


def no_body(client: socket.socket) -> None:
    client.sendall(POST + b"Content-Length: 9\r\n\r\n")


def no_expected_body(client: socket.socket) -> None:
    client.sendall(POST + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n")


def a_chunk_of_a_body(client: socket.socket) -> None:
    client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")


def part_of_a_long_body(client: socket.socket) -> None:
    client.sendall(POST + b"Content-Length: 9999999\r\n\r\nx")


def never_closes(client: socket.socket) -> None:
    client.sendall(LIVEZ + b"Connection: close\r\n\r\n")


def never_reads(client: socket.socket) -> None:
    client.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 4)


numbers = itertools.count()


def wrong_logins(client: socket.socket, address: str = "") -> None:
    """All together 50 a second, or as many as are answered, each with a new name."""
    for _ in range(12):
        number = next(numbers)
        header = basic(f"{number}@example.com", "a wrong password")["Authorization"]
        where = f"X-Forwarded-For: {address.format(number)}\r\n" if address else ""
        client.sendall(POST + f"Authorization: {header}\r\n{where}\r\n".encode())
        client.recv(4096)
        time.sleep(CONNECTIONS / 50)


def wrong_logins_from_everywhere(client: socket.socket) -> None:
    wrong_logins(client, "2001:db8:0:{:x}::")


KINDS: tuple[Callable[[socket.socket], None], ...] = (
    half_a_head,
    a_dripping_head,
    no_body,
    no_expected_body,
    a_chunk_of_a_body,
    part_of_a_long_body,
    never_closes,
    never_reads,
    wrong_logins,
    wrong_logins_from_everywhere,
)


def behave(client: socket.socket, kind: Callable[[socket.socket], None]) -> None:
    with suppress(OSError):  # it has been closed by now
        kind(client)


def begun(
    server: RunningService, kind: Callable[[socket.socket], None]
) -> tuple[list[socket.socket], list[threading.Thread]]:
    clients = [connect(server, receiving=4096) for _ in range(CONNECTIONS)]
    running = [threading.Thread(target=behave, args=(client, kind)) for client in clients]
    for thread in running:
        thread.start()
    return clients, running


@contextmanager
def flood(server: RunningService, kind: Callable[[socket.socket], None]) -> Iterator[None]:
    """So many clients of a kind, for the block; after it the server has nothing left to do."""
    clients, running = begun(server, kind)
    time.sleep(0.2)
    try:
        yield
    finally:
        for client in clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_WR)  # the last answer still comes
        for thread in running:
            thread.join()
        for client in clients:
            client.close()


class Caller:
    """Asks for a stored answer again and again, on one connection."""

    def __init__(self, server: RunningService, path: str, company: Company) -> None:
        self._url = server.url + path
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.headers.update(company.authorization)

    def p99(self) -> float:
        """Seconds, of some calls."""
        taken = []
        for _ in range(CALLS):
            began = time.perf_counter()
            assert self._http.get(self._url, timeout=30).status_code == 200
            taken.append(time.perf_counter() - began)
        return sorted(taken)[-1 - CALLS // 100]

    def close(self) -> None:
        self._http.close()


def is_alive(server: RunningService) -> bool:
    with closing(connect(server)) as health:
        health.settimeout(2)
        health.sendall(LIVEZ + b"\r\n")
        return health.recv(4096).startswith(b"HTTP/1.1 200 ")


def connections(server: RunningService) -> int:
    """Those that the worker holds, and the one that listens."""
    [worker] = workers(server)
    listed = psutil.Process(worker).net_connections("tcp")
    return sum(one.laddr.port == urlsplit(server.url).port for one in listed)


@pytest.fixture(scope="module")
def one_worker(
    _migrated_database: Any,
    running_sandbox: Any,
    secret_key: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningService]:
    log = tmp_path_factory.mktemp("clients") / "log"
    database = _migrated_database[0]
    with serve(database, running_sandbox, secret_key, log, WEB_THREADS="8") as running:
        yield running
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_bad_clients_keep_nobody_waiting(
    one_worker: RunningService, make_company: Any, control: Any, kind: Any
) -> None:
    company = make_company(NIP)
    # A hash that this server, which outlives the tables' rows, has not seen: it is to log in anew.
    users.set_password(company.service.db, company.service.passwords, company.email, PASSWORD)
    with closing(Caller(one_worker, status_path(control, company), company)) as caller:
        caller.p99()
        alone, beside = [], []
        for _ in range(ROUNDS):
            alone.append(caller.p99())
            with flood(one_worker, kind):
                beside.append(caller.p99())
                assert is_alive(one_worker)
        assert median(beside) <= TIMES * max(median(alone), LEAST), (alone, beside)


def test_all_of_them_are_closed(one_worker: RunningService, database: Any) -> None:
    floods = [begun(one_worker, kind) for kind in KINDS]
    for _, running in floods:
        for thread in running:
            thread.join()
    deadline = time.monotonic() + CLOSED
    while connections(one_worker) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for clients, _ in floods:
        for client in clients:
            client.close()
