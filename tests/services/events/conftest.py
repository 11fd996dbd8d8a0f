"""A receiver of webhooks over a real socket, and a journal to write to."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from app.account import Account
from app.service import Service
from app.services.events import journal, webhooks
from app.services.operators import users

NIP = "5265877635"


@dataclass
class Receiver:
    """What came in, as (headers, body), and how it is answered: a status, or nothing for a while.

    `hangs` holds every answer back until it is set.
    """

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: threading.Event = field(default_factory=threading.Event)
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.came]


@pytest.fixture
def make_receiver() -> Iterator[Callable[..., Receiver]]:
    """Make receivers on the loopback; `statuses` are given in turn, then 204."""
    servers: list[ThreadingHTTPServer] = []
    made: list[Receiver] = []

    def make(*statuses: int, hangs: bool = False) -> Receiver:
        receiver = Receiver(statuses=list(statuses))
        if not hangs:
            receiver.answers.set()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:  # whoever posted it was killed
                    return
                receiver.came.append(({k.lower(): v for k, v in self.headers.items()}, body))
                receiver.answers.wait(20)
                status = receiver.statuses.pop(0) if receiver.statuses else 200
                self.send_response(status)  # without Content-Length, as simple receivers do
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if status == 200:
                    try:
                        self.wfile.write(receiver.body)
                    except OSError:
                        receiver.headers["cut"] = "yes"

            def log_message(self, *_args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        receiver.url = f"http://127.0.0.1:{server.server_port}/events"
        servers.append(server)
        made.append(receiver)
        return receiver

    yield make
    for receiver in made:
        receiver.answers.set()
    webhooks.wait(15)
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def account(service: Service) -> Account:
    """A company without any login."""
    users.add_company(service.db, NIP, "Spółka")
    return service.account(NIP, "test")


@pytest.fixture
def tell(service: Service) -> Callable[..., None]:
    """Write events of stuck sessions: `tell("A", "B")`."""

    def write(*references: str, nip: str = NIP) -> None:
        for reference in references:
            with service.db.transaction() as connection:
                journal.note(
                    connection,
                    journal.Kind.SESSION_STUCK,
                    company_nip=nip,
                    environment="test",
                    data={"referenceNumber": reference},
                )

    return write
