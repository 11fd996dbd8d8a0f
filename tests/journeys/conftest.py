"""The service as it runs in production: gunicorn on a socket, two workers, settings by name."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from sandbox.control import Control

PROJECT = Path(__file__).parents[2]


@dataclass
class RunningService:
    """gunicorn at `url`; its standard error goes to the file `log`."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit code; at most 30 s."""
        return self.process.wait(30)


@contextmanager
def running_service(
    database: Any,
    sandbox: Any,
    secret_key: bytes,
    log: Path,
    *,
    application: str = "tests.wsgi:app",
    before: Sequence[str] = (),
    port: int | None = None,
    **settings: str,
) -> Iterator[Any]:
    """Starts the service, waits until it is ready, and stops it at the end.

    `settings` are variables in place of the usual ones, `before` a command that runs gunicorn.
    """
    port = port or free_port()
    environment = {
        **service_environment(database, sandbox, secret_key),
        "PORT": str(port),
        **settings,
    }
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "gunicorn", "--config", "app/gunicorn.py", application],
            cwd=PROJECT,
            env=environment,
            stdout=stderr,
            stderr=stderr,
        )
    server = RunningService(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        if process.poll() is None:
            server.terminate()
            try:
                server.wait()
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def service_environment(database: Any, sandbox: Any, secret_key: bytes) -> dict[str, str]:
    """The usual settings of the service, as environment variables."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "DATABASE_URL": database.service_dsn,
        "SECRET_KEYS": base64.b64encode(secret_key).decode(),
        **{f"KSEF_URL_{name.upper()}": f"{sandbox.url}/{name}/v2" for name in _ENVIRONMENTS},
        **_upo_signers(sandbox.url),
        "WEB_CONCURRENCY": "2",
        "WEB_THREADS": "4",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LATARNIA_URL_PROD": f"{sandbox.url}/latarnia/prod",
    }


def _upo_signers(sandbox_url: str) -> dict[str, str]:
    with Control(sandbox_url) as control:
        return {
            f"UPO_SIGNERS_{name.upper()}": ",".join(control.signers(name)) for name in _ENVIRONMENTS
        }


_ENVIRONMENTS = ("test", "demo", "prod")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _wait_until_ready(server: RunningService) -> None:
    deadline = time.monotonic() + 60
    with requests.Session() as http:
        http.trust_env = False
        while time.monotonic() < deadline and server.process.poll() is None:
            try:
                if http.get(f"{server.url}/readyz", timeout=2).status_code == 200:
                    return
            except requests.RequestException:
                time.sleep(0.05)
    raise AssertionError(f"the service did not start: {server.log.read_text()}")


@pytest.fixture(scope="session")
def shared_server(
    _migrated_database: Any,
    running_sandbox: Any,
    secret_key: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningService]:
    log = tmp_path_factory.mktemp("service") / "log"
    with running_service(_migrated_database[0], running_sandbox, secret_key, log) as server:
        yield server
    assert server.process.returncode == 0
    assert b"Traceback" not in log.read_bytes()


@pytest.fixture
def server(shared_server: RunningService, database: Any, sandbox: Any) -> RunningService:
    """The running service, before an empty database and a reset sandbox."""
    return shared_server


@pytest.fixture
def start_server(
    database: Any, sandbox: Any, secret_key: bytes, tmp_path: Path
) -> Iterator[Callable[[], RunningService]]:
    """Starts one that the test may stop."""
    with ExitStack() as running:
        yield lambda: running.enter_context(
            running_service(database, sandbox, secret_key, tmp_path / "log")
        )


@pytest.fixture
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session
