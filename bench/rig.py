"""Runs what benchmarks and chaos need: PostgreSQL, the sandbox and gunicorn, as processes."""

import base64
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psycopg2
from psycopg2.extensions import make_dsn

from app import make_parts
from app.db.migrate import migrate
from app.services import auth, users
from app.services.parts import Parts, Place
from app.settings import ENVIRONMENTS, Settings, Timing
from sandbox import postgres
from sandbox.control import Control

PROJECT = Path(__file__).parents[1]
PASSWORD = "correct horse battery staple"
APPLICATION = "ksef-proxy"
"""The application_name of the replicas' connections in PostgreSQL."""
NIPS = [nip for nip in map(str, range(5265870000, 5265870500)) if users.is_nip(nip)][:30]


class RigError(Exception):
    """A part of the rig did not start."""


@dataclass
class Service:
    """gunicorn at `url`."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def memory(self) -> int:
        """The largest resident memory of a worker, in bytes."""
        return max(
            int(line.split()[1]) * 1024
            for pid in self.workers()
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmRSS:")
        )


@dataclass
class Rig:
    """Everything that runs. Companies are made by `company`, replicas by `serve`."""

    server: postgres.EmbeddedPostgres
    sandbox_url: str
    timing: dict[str, float] = field(default_factory=dict)
    secret_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    dsn: str = field(init=False)
    control: Control = field(init=False)
    parts: Parts = field(init=False)

    def __post_init__(self) -> None:
        self.dsn = make_dsn(self.server.dsn())
        self.control = Control(self.sandbox_url, timeout=120)
        self.parts = make_parts(
            Settings(
                database_url=self.dsn,
                secret_keys=(self.secret_key,),
                ksef_urls=self._ksef_urls(),
                log_level="WARNING",
                web_threads=32,
                timing=Timing(**self.timing),  # type: ignore[arg-type]
            )
        )

    def _ksef_urls(self) -> dict[str, str]:
        return {name: f"{self.sandbox_url}/{name}/v2" for name in ENVIRONMENTS}

    def company(self, nip: str) -> tuple[Place, dict[str, str]]:
        """A company logged in to test, and the headers of its user."""
        users.add_company(self.parts, nip, f"Spółka {nip}")
        email = f"erp@{nip}.example"
        users.add_user(self.parts, email=email, nip=nip, role="technical", password=PASSWORD)
        place = Place(nip, "test")
        auth.set_token(self.parts, place, self.control.add_token("test", nip))
        auth.log_in(self.parts, place)
        credentials = base64.b64encode(f"{email}:{PASSWORD}".encode()).decode()
        return place, {"Authorization": f"Basic {credentials}"}

    def execute(self, statement: str, values: Any = None) -> list[tuple[Any, ...]]:
        """Run a statement as the owner and commit it; its rows, if any."""
        with contextlib.closing(psycopg2.connect(self.dsn)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []

    @contextmanager
    def without_database(self) -> Iterator[None]:
        """PostgreSQL is stopped, as an operator would, and started again at the end."""
        self.server.stop()
        try:
            yield
        finally:
            self.server = postgres.start(self.server.folder, durable=False)

    @contextmanager
    def serve(
        self,
        folder: Path,
        *,
        workers: int = 2,
        threads: int = 8,
        wsgi: str = "bench.wsgi:app",
        config: str = "app/gunicorn.py",
        latarnia: bool = False,
    ) -> Iterator[Service]:
        """One replica, until the end of the block."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        log = folder / f"gunicorn-{port}.log"
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "DATABASE_URL": make_dsn(self.dsn, application_name=APPLICATION),
            "SECRET_KEYS": base64.b64encode(self.secret_key).decode(),
            **{
                f"KSEF_URL_{name.upper()}": f"{self.sandbox_url}/{name}/v2" for name in ENVIRONMENTS
            },
            "LATARNIA_URL_TEST": f"{self.sandbox_url}/latarnia/test" if latarnia else "",
            "PORT": str(port),
            "WEB_CONCURRENCY": str(workers),
            "WEB_THREADS": str(threads),
            "BENCH_TIMING": orjson.dumps(self.timing).decode(),
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "--config", config, wsgi],
                cwd=PROJECT,
                env=environment,
                stdout=output,
                stderr=output,
            )
        service = Service(f"http://127.0.0.1:{port}", process, log)
        try:
            _wait_until_ready(service, port)
            yield service
        finally:
            _stop(process)


@contextmanager
def started(**timing: float) -> Iterator[Rig]:
    """PostgreSQL and the sandbox, empty; `timing` are fields of the service's Timing."""
    rig: Rig | None = None
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ksef-proxy-")))
        server = postgres.start(folder / "postgres", durable=False)
        stack.callback(lambda: (rig.server if rig else server).stop())
        migrate(server.dsn())
        process = subprocess.Popen(
            [sys.executable, "-m", "sandbox", "--port", "0"],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(_stop, process)
        assert process.stdout is not None
        first = process.stdout.readline()
        if " at " not in first:
            raise RigError("the sandbox did not start")
        rig = Rig(server, first.split(" at ")[1].split()[0], timing)
        stack.callback(rig.parts.db.close)
        stack.callback(rig.control.close)
        yield rig


def _wait_until_ready(service: Service, port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and service.process.poll() is None:
        with contextlib.suppress(OSError), Connection(port) as connection:
            if connection.get("/readyz")[0] == 200:
                return
        threading.Event().wait(0.05)
    raise RigError(f"the service did not start: {service.log.read_text()[-2000:]}")


def _stop(process: "subprocess.Popen[Any]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout:
        process.stdout.close()


class Connection:
    """A client that takes hardly any CPU from the server: one socket, one answer at a time."""

    def __init__(self, port: int, headers: dict[str, str] | None = None) -> None:
        self._head = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body; ConnectionError if the server closed the connection."""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: b\r\n{self._head}\r\n".encode())
        status = self._file.readline().split(b" ")
        if len(status) < 2:
            raise ConnectionError("no answer")
        length = 0
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = self._file.read(length)
        if len(body) < length:
            raise ConnectionError("half an answer")
        return int(status[1]), body


def port_of(service: Service) -> int:
    """The port that a service listens on."""
    return int(service.url.rsplit(":", 1)[1])
