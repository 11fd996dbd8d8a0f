"""Requests that come in pieces, or are none; without nginx.

Clients that would hold a server's threads: tests/faults/test_clients.py.
"""

import json
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.journeys.conftest import RunningService
from tests.journeys.test_tokens_end_together import workers
from tests.service import Company

pytestmark = pytest.mark.slow

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /auth/test HTTP/1.1\r\nHost: x\r\n"


def connect(server: RunningService, receiving: int = 2**16) -> socket.socket:
    client = socket.socket()
    client.settimeout(20)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receiving)
    client.connect(("127.0.0.1", urlsplit(server.url).port))
    return client


class Client:
    """Sends bytes as they are; reads answers whole."""

    def __init__(self, server: RunningService) -> None:
        self.socket = connect(server)
        self._answers = self.socket.makefile("rb")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self._answers.close()

    def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer; an interim one has no body."""
        status, length = int(self._answers.readline().split()[1]), 0
        while (line := self._answers.readline()) != b"\r\n":
            name, value = line.lower().split(b":", 1)
            length = int(value) if name == b"content-length" else length
        return status, self._answers.read(length)

    def ask(self, *pieces: bytes) -> tuple[int, bytes]:
        for number, piece in enumerate(pieces):
            time.sleep(0.05 * bool(number))
            self.socket.sendall(piece)
        return self.answer()

    def is_closed(self) -> bool:
        """Whether the service has ended the connection and sent no more."""
        return self._answers.read(1) == b""


@pytest.fixture
def client(server: RunningService) -> Iterator[Client]:
    with Client(server) as connected:
        yield connected


def test_pieces_of_a_request_and_requests_in_one_piece(client: Client) -> None:
    with_body = POST + b"Content-Length: 2\r\n\r\n{}"
    for _ in range(2):
        assert (
            client.ask(with_body[:9], with_body[9:-3], with_body[-3:-1], with_body[-1:])[0] == 401
        )
        assert client.ask(LIVEZ + b"\r\n" + with_body + LIVEZ + b"\r\n" + with_body[:-1])[0] == 200
        assert [client.answer()[0], client.answer()[0]] == [401, 200]
        assert client.ask(with_body[-1:])[0] == 401


def test_the_end_of_the_last_request_is_no_end_of_its_answer(client: Client) -> None:
    client.socket.sendall(2 * (LIVEZ + b"\r\n"))
    client.socket.shutdown(socket.SHUT_WR)
    assert [client.answer()[0], client.answer()[0]] == [200, 200]
    assert client.is_closed()


def test_after_a_standstill_no_client_is_taken_for_one_that_was_slow(
    server: RunningService, client: Client
) -> None:
    """As when a virtual machine is moved to another host: the clients stood still as well."""
    with Client(server) as other:
        assert client.ask(LIVEZ + b"\r\n")[0] == 200
        other.socket.sendall(LIVEZ)
        time.sleep(0.1)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for worker in workers(server):
                os.kill(worker, number)
            time.sleep(5.2 if number == signal.SIGSTOP else 0.2)
        assert client.ask(LIVEZ + b"\r\n")[0] == 200
        assert other.ask(b"\r\n")[0] == 200


def test_a_body_is_asked_for_where_that_is_expected(client: Client) -> None:
    expecting = POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    for _ in range(2):
        assert client.ask(expecting) == (100, b"")
        assert client.ask(b"{", b"}")[0] == 401
        assert client.ask(expecting + b"{}")[0] == 401


def test_a_body_in_chunks_is_refused(client: Client) -> None:
    status, _ = client.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
    assert status == 411
    assert client.is_closed()


def test_a_body_that_is_too_long_is_refused_by_its_length(
    client: Client, make_company: Any
) -> None:
    """Who still sends when the answer has come can read it all the same."""
    header = make_company("5265877635").authorization["Authorization"].encode()
    head = b"PUT /outages/test/simulation HTTP/1.1\r\nHost: x\r\nAuthorization: " + header
    client.socket.sendall(head + b"\r\nContent-Length: 99999\r\n\r\n{")
    assert select.select([client.socket], [], [], 20)[0]
    status, body = client.ask(*[b" " * 9000] * 4)
    assert (status, json.loads(body)["code"]) == (400, "invalid_parameter")
    assert client.is_closed()


BROKEN = (
    b"GET /status HTTP/1.1\r\nHost: x\r\nAuthorization: Basic Zmlyc3QgcG\r\nFydDpzZWNvbmQ=\r\n\r\n"
)


@pytest.mark.parametrize(
    ("request_bytes", "expected", "kind"),
    [
        (BROKEN, 400, "InvalidHeader"),
        (b"FydDpzZWNvbmQ=\r\n\r\n", 400, "InvalidRequestLine"),
        (b"GET /FydDpzZWNvbmQ= HTTP/9.9\r\n\r\n", 400, "InvalidHTTPVersion"),
        (b"GET /" + b"FydDpzZWNvbmQ=" * 200 + b" HTTP/1.1\r\n\r\n", 414, "LimitRequestLine"),
        (LIVEZ + b"A: " + b"FydDpzZWNvbmQ=" * 400 + b"\r\n\r\n", 431, "LimitRequestHeaders"),
        (LIVEZ + b"Expect: FydDpzZWNvbmQ=\r\n\r\n", 400, "ExpectationFailed"),
    ],
    ids=["broken header", "line", "version", "long line", "long header", "expectation"],
)
def test_what_is_no_request_is_quoted_nowhere(
    server: RunningService, client: Client, request_bytes: bytes, expected: int, kind: str
) -> None:
    """Nor is it logged as a part of the thread's last request."""
    for _ in range(8):
        assert client.ask(LIVEZ + b"X-Request-ID: the-last-one\r\n\r\n")[0] == 200
    before = len(server.log.read_bytes())
    status, body = client.ask(request_bytes)
    assert status == expected
    assert client.is_closed()
    [line] = map(json.loads, server.log.read_bytes()[before:].splitlines())
    assert line.pop("time")
    assert line == {"level": "warning", "event": f"Refused {kind} from 127.0.0.1"}
    assert b"FydDpzZWNvbmQ" not in body


def test_nobody_tells_us_our_own_path(client: Client) -> None:
    """Not even a proxy that is trusted, as 127.0.0.1 is by gunicorn."""
    head = b"GET /console/nowhere HTTP/1.1\r\nHost: x\r\n"
    told = client.ask(head + b"SCRIPT_NAME: /console\r\nPATH_INFO: /livez\r\n\r\n")
    status, _ = told
    assert status == client.ask(head + b"\r\n")[0] != 200
    status, _ = client.ask(LIVEZ + b"SCRIPT_NAME: //evil.example\r\n\r\n")
    assert status == 200


@pytest.mark.parametrize(
    "target",
    [
        "//metrics",
        "//livez",
        "/%2flivez",
        "http://x//livez",
        "/auth%2Ftest",
        "/invoices/test/status/20260115-SO-0123456789-ABCDEF0123-4F"
        "%2f5265877635-20250826-0100001AF629-AF/upo",
    ],
)
def test_slashes_that_are_none_and_slashes_too_many(
    client: Client, company: Company, target: str
) -> None:
    header = company.authorization["Authorization"]
    status, body = client.ask(
        f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {header}\r\n\r\n".encode()
    )
    assert (status, json.loads(body)["code"]) == (404, "not_found")
