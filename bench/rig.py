"""Runs what benchmarks and chaos need: PostgreSQL, the sandbox and gunicorn, as processes.

Companies are made by the operator's commands. Nothing else of the service is used here.
"""

import base64
import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg2

from app import create_app
from app.settings import ENVIRONMENTS, Timing, from_environment
from sandbox import postgres
from sandbox.control import Control

PROJECT = Path(__file__).parents[1]
PASSWORD = "correct horse battery staple"
APPLICATION = "ksef-proxy"
"""The application_name of the service's connections in PostgreSQL."""
TICKS = os.sysconf("SC_CLK_TCK")


_WEIGHTS = (6, 5, 7, 2, 3, 4, 5, 6, 7, -1)
NIPS = [
    nip
    for nip in map(str, range(5265870000, 5265870300))
    if sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, nip, strict=True)) % 11 == 0
]


class Answer(NamedTuple):
    """An HTTP answer; the names of its headers are in lower case."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Connection:
    """A client that takes hardly any CPU from the server: one socket, one answer at a time.

    It connects with its first request, and anew after the server or an error closed the socket.
    """

    def __init__(self, port: int, headers: Mapping[str, str] | None = None) -> None:
        self._port = port
        self._headers = dict(headers or {})
        self._socket: socket.socket | None = None

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        if self._socket:
            self._file.close()
            self._socket.close()
            self._socket = None

    def abort(self) -> None:
        """End a request that is under way in another thread, with an OSError there."""
        if (under_way := self._socket) is not None:
            with contextlib.suppress(OSError):
                under_way.shutdown(socket.SHUT_RDWR)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """The whole answer; raises OSError if the connection ended before it."""
        try:
            return self._get(path, self._headers | dict(headers or {}))
        except OSError:
            self.close()
            raise

    def ok(self, path: str) -> bytes:
        """The body of a 200; raises AssertionError for any other answer."""
        answer = self.get(path)
        assert answer.status == 200, answer.body[:500]
        return answer.body

    def _get(self, path: str, headers: Mapping[str, str]) -> Answer:
        if not self._socket:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=60)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._file = self._socket.makefile("rb")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: b\r\n{lines}\r\n".encode())
        first = self._file.readline()
        if len(first) < 12:
            raise ConnectionError("no answer")
        status, found = int(first[9:12]), {}
        while line := self._file.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            found[name.lower()] = value.strip()
        length = 0 if status == 304 else int(found.get("content-length", 0))
        body = self._file.read(length)
        if len(body) < length:
            raise ConnectionError("half an answer")
        if found.get("connection") == "close":
            self.close()
        return Answer(status, body, found)


@dataclass
class Service:
    """A replica: gunicorn, listening on `port`."""

    port: int
    process: "subprocess.Popen[bytes]"

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def memory(self) -> int:
        """The largest resident memory of a worker, in bytes."""
        return max(
            int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) * 1024
            for pid in self.workers()
        )

    def processor_time(self) -> float:
        """Seconds, user and system, that the workers have used so far."""
        stats = [Path(f"/proc/{pid}/stat").read_text() for pid in self.workers()]
        # After the name in parentheses: utime and stime are the fields 14 and 15 of proc(5).
        return sum(sum(map(int, text.rpartition(")")[2].split()[11:13])) for text in stats) / TICKS


@dataclass
class Rig:
    """Everything that runs. Companies are made by `company`, replicas by `serve`."""

    server: postgres.EmbeddedPostgres
    sandbox_url: str
    timing: Mapping[str, float]
    control: Control = field(init=False)

    def __post_init__(self) -> None:
        self.control = Control(self.sandbox_url, timeout=120)
        self.environment = {
            "PATH": os.environ.get("PATH", ""),
            "DATABASE_URL": self.server.dsn(),
            "SECRET_KEYS": base64.b64encode(secrets.token_bytes(32)).decode(),
            **{f"KSEF_URL_{name.upper()}": self.ksef_url(name) for name in ENVIRONMENTS},
            **{
                f"UPO_SIGNERS_{name.upper()}": ",".join(self.control.signers(name))
                for name in ENVIRONMENTS
            },
            "BENCH_TIMING": msgspec.json.encode(self.timing).decode(),
        }
        quiet = from_environment(self.environment | {"LOG_LEVEL": "ERROR"})
        self._commands = create_app(quiet).test_cli_runner()

    def ksef_url(self, environment: str = "test") -> str:
        """Where the sandbox stands in for an environment of KSeF."""
        return f"{self.sandbox_url}/{environment}/v2"

    def command(self, *arguments: str, given: str = "") -> None:
        """Run a command of the operator; `given` is its standard input."""
        result = self._commands.invoke(args=arguments, input=given)
        if result.exit_code:
            raise RuntimeError(f"{' '.join(arguments)}: {result.output} {result.exception!r}")

    def company(self, nip: str) -> dict[str, str]:
        """Make a company, logged in to test; returns the headers of its user."""
        email = f"erp@{nip}.example"
        place = ("--nip", nip, "--environment", "test")
        self.command("company", "add", nip, f"Spółka {nip}")
        self.command(
            *("user", "add", email, "--nip", nip, "--role", "technical", "--password-stdin"),
            given=PASSWORD,
        )
        token = self.control.add_token("test", nip)
        self.command("credential", "set-token", *place, "--no-verify", given=token)
        self.command("login", *place)
        return basic(email)

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        """A cursor of the owner, on a connection of its own that commits each statement."""
        with contextlib.closing(psycopg2.connect(self.server.dsn())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor

    def execute(self, statement: str, values: Any = None) -> list[tuple[Any, ...]]:
        """Run a statement as the owner and commit it; returns its rows, if any."""
        with self.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def add_rows(self, nip: str, numbers: list[str]) -> None:
        """Write an ERP's rows, of invoices with these KSeF numbers, in this order."""
        self.execute(
            "INSERT INTO synced_invoices (company_nip, environment, ksef_number, invoice_number)"
            " SELECT %s, 'test', number, 'FV/' || number FROM unnest(%s) AS number",
            (nip, numbers),
        )

    def lift_quota(self) -> None:
        """Let the companies that are logged in call KSeF as often as they like."""
        self.execute("UPDATE quota_groups SET per_second = -1, per_minute = -1, per_hour = -1")

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
        self, folder: Path, config: str = "app/gunicorn.py", **settings: str
    ) -> Iterator[Service]:
        """One replica, until the end of the block; its log is in `folder`.

        `settings` are the service's environment variables.
        """
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        log = folder / f"gunicorn-{port}.log"
        environment = self.environment | settings | {"PORT": str(port)}
        command = ("gunicorn", "--config", config, "bench.wsgi:app")
        with (
            log.open("wb") as output,
            _running(*command, env=environment, stdout=output, stderr=output) as process,
        ):
            if not _is_ready(process, port):
                raise RuntimeError(f"the service did not start: {log.read_text()[-2000:]}")
            yield Service(port, process)

    @contextmanager
    def follow(self, folder: Path) -> Iterator[None]:
        """A process that follows all companies, until the end of the block."""
        command = ("flask", "--app", "bench.wsgi", "follow")
        with (
            (folder / "follow.log").open("wb") as output,
            _running(*command, env=self.environment, stdout=output, stderr=output),
        ):
            yield


@contextmanager
def started(**timing: float) -> Iterator[Rig]:
    """PostgreSQL and the sandbox, empty; `timing` are fields of the service's Timing."""
    with ExitStack() as stack:
        process = stack.enter_context(_running("sandbox", "--port", "0", stdout=subprocess.PIPE))
        first = process.stdout.readline().decode() if process.stdout else ""
        if " at " not in first:
            raise RuntimeError("the sandbox did not start")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ksef-proxy-")))
        server = postgres.start(folder / "postgres", durable=False)
        stack.callback(shutil.rmtree, server.folder, ignore_errors=True)  # root has it elsewhere
        rig = Rig(server, first.split(" at ")[1].split()[0], timing)
        stack.callback(lambda: rig.server.stop())  # it may be another one by then
        stack.callback(rig.control.close)
        rig.command("migrate")
        yield rig


def basic(email: str) -> dict[str, str]:
    """The header of a user whose password is PASSWORD."""
    credentials = base64.b64encode(f"{email}:{PASSWORD}".encode()).decode()
    return {"Authorization": f"Basic {credentials}"}


def scaled(rate: float, *beginnings: str) -> dict[str, float]:
    """The fields of the service's Timing whose names begin so, for a clock that runs `rate` times
    as fast."""
    defaults = asdict(Timing())
    return {name: defaults[name] / rate for name in defaults if name.startswith(beginnings)}


def _is_ready(process: "subprocess.Popen[bytes]", port: int) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), Connection(port) as connection:
            if connection.get("/readyz").status == 200:
                return True
        time.sleep(0.05)
    return False


@contextmanager
def _running(*module: str, **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A Python module as a process, ended with the block: by SIGKILL if SIGTERM does not help."""
    with subprocess.Popen([sys.executable, "-m", *module], cwd=PROJECT, **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
