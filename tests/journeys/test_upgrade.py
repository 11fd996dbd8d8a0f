"""Two replicas behind nginx, as deploy/nginx sets it up, are replaced under load."""

import itertools
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import requests
from flask import Flask

from app import create_app
from app.context import EXTENSION
from app.db import migrate
from app.settings import Settings
from tests.conftest import ROLES, TestDatabase
from tests.faults.test_tls_and_proxy import Ca
from tests.faults.test_tls_and_proxy import ca as ca
from tests.journeys.conftest import PROJECT, RunningService, free_port, running_service
from tests.service import Company

NIP = "5265877635"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
CALLERS = 6
pytestmark = [pytest.mark.skipif(NGINX is None, reason="needs nginx"), pytest.mark.slow]


@pytest.fixture
def database(empty_database: TestDatabase) -> TestDatabase:
    """One of the test's own: it is migrated while the service runs."""
    migrate.migrate(empty_database.owner_dsn)
    empty_database.execute(f"GRANT {', '.join(ROLES)} TO CURRENT_USER")
    return empty_database


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    """One of the test's own, as its database is."""
    made = create_app(settings)
    yield made
    made.extensions[EXTENSION].db.close()


def nginx_around(sites: str, folder: Path) -> str:
    """nginx's own file around these sites; it writes nothing outside of the folder."""
    temporary = "".join(
        f"{name}_temp_path {folder}/{name}; "
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"pid {folder}/nginx.pid; events {{}}"
        f" http {{ access_log off; {temporary} include {sites}; }}"
    )


@contextmanager
def running_nginx(
    folder: Path,
    ca: Ca,
    ports: list[int],
    changes: Mapping[str, str] = MappingProxyType({}),
    *,
    alive: bool = True,
) -> Iterator[str]:
    """nginx with the deployed configuration, but for addresses and files; its base URL.

    `changes`: what is put in place of patterns; `alive`: whether a replica is to answer first.
    """
    port, certificate = free_port(), ca.issue(folder)
    text = "".join(file.read_text("utf-8") for file in (PROJECT / "deploy/nginx").glob("*.conf"))
    for pattern, value in {
        "127.0.0.1:8081": f"127.0.0.1:{ports[0]}",
        "127.0.0.1:8082": f"127.0.0.1:{ports[1]}",
        "listen 443": f"listen 127.0.0.1:{port}",
        r"/etc/ssl/\S+\.(pem|key)": str(certificate),
        **changes,
    }.items():
        text, found = re.subn(pattern, value, text)
        assert found, pattern
    (folder / "site.conf").write_text(text)
    (folder / "nginx.conf").write_text(
        f"error_log {folder}/error.log info; daemon off;"
        + nginx_around(f"{folder}/site.conf", folder)
    )
    command = [str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen(command)
    try:
        url = f"https://127.0.0.1:{port}"
        with client(ca) as http:
            until(lambda: not alive or reachable(http, f"{url}/livez"))
        yield url
    finally:
        process.terminate()
        process.wait(10)


def client(ca: Ca) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.verify = str(ca.bundle)
    return session


def reachable(http: requests.Session, url: str) -> bool:
    try:
        return http.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Load:
    """Callers who ask one thing after another, without a pause, until the end of the block."""

    def __init__(self, url: str, ca: Ca, company: Company, paths: list[str]) -> None:
        self._url, self._ca, self._company, self._paths = url, ca, company, paths
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(CALLERS)]
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _call(self, number: int) -> None:
        with client(self._ca) as http:
            http.headers.update(self._company.authorization)
            for count, path in enumerate(itertools.cycle(self._paths[number:] + self._paths)):
                if self._over.is_set():
                    return
                given = f"{number}-{count}"
                try:
                    answer = http.get(self._url + path, headers={"X-Request-ID": given}, timeout=30)
                except requests.RequestException as error:
                    self.failures.append(f"{path}: {error}")
                    continue
                if answer.status_code == 200 and answer.headers["X-Request-ID"] == given:
                    self.answers[path] += 1
                else:
                    self.failures.append(f"{path}: {answer.status_code} {answer.text[:300]}")

    def goes_on(self) -> None:
        """Returns once each path was answered some times more."""
        seen = Counter(self.answers)
        until(lambda: all(self.answers[path] >= seen[path] + 5 for path in self._paths))


@dataclass
class Replicas:
    """Two replicas, each to be had in the place of the one before."""

    start: Callable[[int, int], Any]
    ports: list[int]
    stack: ExitStack
    running: list[RunningService]

    def upgrade(self, number: int) -> None:
        """Stop one as an operator does, and start another one at its address."""
        self.running[number].terminate()
        assert self.running[number].wait() == 0
        self.running[number] = self.stack.enter_context(self.start(number, self.ports[number]))


@pytest.fixture
def replicas(
    database: TestDatabase, sandbox: Any, secret_key: bytes, tmp_path: Path
) -> Iterator[Replicas]:
    names = itertools.count()

    def start(_number: int, port: int) -> Any:
        log = tmp_path / f"log{next(names)}"
        return running_service(database, sandbox, secret_key, log, port=port)

    with ExitStack() as stack:
        ports = [free_port(), free_port()]
        running = [stack.enter_context(start(n, port)) for n, port in enumerate(ports)]
        yield Replicas(start, ports, stack, running)
    for log in tmp_path.glob("log*"):
        assert "Traceback" not in log.read_text()


@pytest.fixture
def paths(make_company: Callable[..., Company], control: Any) -> tuple[Company, list[str]]:
    """A company, and what is asked in its name: what is kept, what moves, and both kinds of UPO."""
    company = make_company(NIP, environments=("test",))
    base = "/invoices/test/status"
    stored = control.seed_session("test", NIP, invoices=3)
    moving = control.seed_session("test", NIP, state="moving", invoices=3)
    upo = f"{base}/{stored.reference_number}/{stored.ksef_numbers[0]}/upo"
    return company, [
        f"{base}/{stored.reference_number}",
        f"{base}/{moving.reference_number}",
        f"{upo}?docType=xml",
        f"{upo}?docType=pdf",
    ]


def test_replicas_and_schema_are_upgraded_without_a_failed_request(
    replicas: Replicas,
    database: TestDatabase,
    ca: Ca,
    paths: tuple[Company, list[str]],
    tmp_path: Path,
) -> None:
    company, asked = paths
    newer = tmp_path / "migrations"
    shutil.copytree(migrate.MIGRATIONS, newer)
    next_number = len(list(newer.iterdir())) + 1
    (newer / f"{next_number:04}_next.sql").write_text(
        "ALTER TABLE kept_sessions ADD COLUMN note text; CREATE TABLE notes (id bigint)"
    )
    with running_nginx(tmp_path, ca, replicas.ports) as url, Load(url, ca, company, asked) as load:
        load.goes_on()
        assert migrate.migrate(database.owner_dsn, newer) == [f"{next_number:04}_next"]
        load.goes_on()
        for number in (0, 1):
            replicas.upgrade(number)
            load.goes_on()
    assert load.failures == []
    assert sum(load.answers.values()) > 100


def test_a_replica_that_ends_is_not_ready_and_finishes_what_it_has(
    replicas: Replicas, control: Any, paths: tuple[Company, list[str]]
) -> None:
    company, _ = paths
    session = control.seed_session("test", NIP, invoices=5)
    control.fault("delay", path="/invoices$", seconds=1.5)
    service = replicas.running[0]
    answers: list[requests.Response] = []

    def ask() -> None:
        with requests.Session() as http:
            http.trust_env = False
            path = f"/invoices/test/status/{session.reference_number}"
            answers.append(http.get(service.url + path, headers=company.authorization, timeout=20))

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: not control.waiting_faults())
    service.terminate()
    with requests.Session() as http:
        http.trust_env = False
        until(lambda: not reachable(http, f"{service.url}/readyz"), 1)
    assert answers == []  # it is still at work
    asking.join(20)
    assert [answer.status_code for answer in answers] == [200]
