"""Answers that end before they are whole, which the library takes for whole ones."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from app import errors
from app.ksef.failures import Answer, NoAnswer
from app.ksef.http import Http, Route

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
Fetch = Callable[[bytes, str], Answer]


@pytest.fixture
def fetch() -> Iterator[Fetch]:
    """The answer to a call whose other side sends these bytes and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        http = Http("test", url, connect=1, call=5, threads=1)

        def send(answer: bytes, method: str) -> Answer:
            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            try:
                return http.send(Route(method, "/x"))
            finally:
                thread.join(5)

        yield send


@pytest.mark.fault(3)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 204 No Content\r\n",
        b"HTTP/1.1 204 No Content\r\nDate: Thu",
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: applica",
        HEAD,
        HEAD + b"Content-Length: 0",
        HEAD + b"Content-Length: 10\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n",
    ],
    ids=lambda answer: repr(answer[-20:]),
)
def test_headers_without_their_end_are_no_answer(fetch: Fetch, method: str, answer: bytes) -> None:
    with pytest.raises(NoAnswer, match="broke off before its answer") as caught:
        fetch(answer, method)
    assert caught.value.health is errors.KsefHealth.DOWN


@pytest.mark.fault(4)
@pytest.mark.parametrize(
    "body",
    [
        b"X: y\r\n" * 200 + b"\r\n",
        b"\r\n",
        b"\r\n{}",
        b"Content-Length: 10\r\n\r\n{}",
        b"Content-Length: 10\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ],
    ids=repr,
)
def test_a_body_without_its_end_is_a_broken_answer(fetch: Fetch, body: bytes) -> None:
    """Without a length nobody can tell whether it is whole; KSeF always sends one."""
    with pytest.raises(errors.KsefUnreachable, match="broke off its answer") as caught:
        fetch(HEAD + body, "GET")
    assert caught.value.health is errors.KsefHealth.DOWN
    assert type(caught.value) is not NoAnswer


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 204 No Content\n\n", b""),
        (HEAD + b"Content-Length: 2\r\n\r\n{}", b"{}"),
        (HEAD + b"Content-Length: 0\r\n\r\n", b""),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", b"{}"),
    ],
    ids=repr,
)
def test_whole_answers(fetch: Fetch, answer: bytes, body: bytes) -> None:
    assert fetch(answer, "GET").body == body


def test_a_refusal_needs_no_length(fetch: Fetch) -> None:
    with pytest.raises(errors.KsefError, match="failed with HTTP 503"):
        fetch(b"HTTP/1.1 503 Unavailable\r\n\r\nmaintenance", "GET")
