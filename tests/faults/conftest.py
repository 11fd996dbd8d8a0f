"""The service before a KSeF that fails as networks and KSeF do, over real sockets.

| fixture | gives |
|---|---|
| `relay` | the TCP relay that stands between the service and the sandbox, passing everything on |
| `replicas` | three of them, gunicorn each, behind that relay |
| `asker` | a logged-in company with a finished session: both questions, of each replica in turn |
| `logged` | what the replicas and the services in this process wrote in this test |
"""

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from app.service import Service
from app.services.sessions import check as status
from app.services.upo import fetch as upo
from app.settings import ENVIRONMENTS, Settings, Timing
from sandbox.control import Control, SeededSession
from sandbox.relay import Pass, Relay
from tests.answers import HttpAnswer
from tests.journeys.conftest import RunningService, running_service
from tests.rows import add_offline, add_synced, offline_sessions, synced_sessions
from tests.service import QUICK, Company

NIP = "5265877635"
ENDPOINTS = ("status", "upo")
BOTH = pytest.mark.parametrize("endpoint", ENDPOINTS)
GRACE = 2.0  # seconds that a busy machine may take
TIMING = replace(
    QUICK,
    ksef_connect=0.5,
    ksef_call=0.8,
    ksef_download=0.8,
    retry_left=1.0,
    latarnia=0.5,
    lease=1.5,  # what a killed worker leaves behind is soon taken over
)
SECRETS = ("Bearer", "sig=", "<html", NIP)  # KSeF numbers begin with the NIP


def serve(
    database: Any,
    sandbox: Any,
    secret_key: bytes,
    log: Path,
    timing: Timing = TIMING,
    **settings: Any,
) -> AbstractContextManager[RunningService]:
    """A replica with such durations; `settings` as for `running_service`."""
    quick = asdict(QUICK)
    changed = {name: value for name, value in asdict(timing).items() if value != quick[name]}
    return running_service(
        database,
        sandbox,
        secret_key,
        log,
        **{
            "application": "tests.faults.wsgi:app",
            "TEST_TIMING": json.dumps(changed),
            "WEB_CONCURRENCY": "1",
            **settings,
        },
    )


@pytest.fixture(scope="session")
def _running_relay(running_sandbox: Any) -> Iterator[Relay]:
    with Relay(urlsplit(running_sandbox.url).port) as relay:
        yield relay


@pytest.fixture
def relay(_running_relay: Relay, sandbox: Any) -> Relay:
    _running_relay.mode = Pass()
    _running_relay.drop()
    return _running_relay


StartReplicas = Callable[..., AbstractContextManager[list[RunningService]]]


@pytest.fixture(scope="session")
def start_replicas(
    running_sandbox: Any,
    secret_key: bytes,
    _running_relay: Relay,
    tmp_path_factory: pytest.TempPathFactory,
) -> StartReplicas:
    """Start replicas on a database, one for each of the settings given; no one may crash."""
    urls = {f"KSEF_URL_{name.upper()}": _url(_running_relay, name) for name in ENVIRONMENTS}
    urls["LATARNIA_URL_TEST"] = f"{running_sandbox.url}/latarnia/test"

    @contextmanager
    def start(
        database: Any, *each: dict[str, Any], timing: Timing = TIMING
    ) -> Iterator[list[RunningService]]:
        folder = tmp_path_factory.mktemp("replicas")

        def start_one(number: int) -> RunningService:
            log = folder / f"log{number}"
            settings = {**urls, **each[number]}
            return stack.enter_context(
                serve(database, running_sandbox, secret_key, log, timing, **settings)
            )

        with ExitStack() as stack:
            with ThreadPoolExecutor() as at_once:
                replicas = list(at_once.map(start_one, range(len(each))))
            yield replicas
        for replica in replicas:
            assert b"Traceback" not in replica.log.read_bytes()

    return start


@pytest.fixture(scope="session")
def _running_replicas(
    _migrated_database: Any, start_replicas: StartReplicas
) -> Iterator[list[RunningService]]:
    with start_replicas(_migrated_database[0], {}, {}, {}) as replicas:
        yield replicas


@pytest.fixture
def replicas(_running_replicas: list[RunningService], database: Any) -> list[RunningService]:
    return _running_replicas


def _url(relay: Relay, environment: str) -> str:
    return f"{relay.url}/{environment}/v2"


@pytest.fixture
def settings(settings: Settings, relay: Relay) -> Settings:
    """Those of the replicas, for the services in this process."""
    urls = {name: _url(relay, name) for name in ENVIRONMENTS}
    return replace(settings, ksef_urls=urls, timing=TIMING)


class Logged(logging.Handler):
    """Reads on in the replicas' logs, and keeps what is logged in this process."""

    def __init__(self, replicas: list[RunningService], format_: Callable[[Any], str]) -> None:
        super().__init__()
        self._format = format_
        self._files = [replica.log for replica in replicas]
        self.clear()

    def clear(self) -> None:
        """Forget what was written until now."""
        self._lines: list[str] = []
        self._begins = [file.stat().st_size for file in self._files]

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self._format(record))

    def text(self) -> str:
        """All of it."""
        read = [
            file.read_bytes()[begin:].decode()
            for file, begin in zip(self._files, self._begins, strict=True)
        ]
        return "\n".join([*self._lines, *read])


@pytest.fixture
def logged(app: Any, replicas: list[RunningService]) -> Iterator[Logged]:
    log = logging.getLogger("ksef_proxy")
    logged = Logged(replicas, log.handlers[0].format)
    log.addHandler(logged)
    yield logged
    log.removeHandler(logged)


@dataclass
class Asker:
    """Asks both questions of one session, of each replica in turn."""

    company: Company
    session: SeededSession
    control: Control
    database: Any
    relay: Relay
    service: Service
    replicas: list[RunningService]
    http: requests.Session
    _turn: Iterator[RunningService] = field(init=False)

    def __post_init__(self) -> None:
        self._turn = cycle(self.replicas)

    def path(self, endpoint: str, session: SeededSession | None = None) -> str:
        session = session or self.session
        base = f"/invoices/test/status/{session.reference_number}"
        numbers = [invoice.ksef_number for invoice in session.invoices]
        return base if endpoint == "status" else f"{base}/{numbers[0]}/upo"

    def ask(
        self,
        endpoint: str,
        session: SeededSession | None = None,
        *,
        of: RunningService | None = None,
    ) -> HttpAnswer:
        return self.get(self.path(endpoint, session), of=of)

    def get(self, path: str, *, of: RunningService | None = None, **options: Any) -> HttpAnswer:
        return self.request("GET", path, of=of, **options)

    def request(
        self, method: str, path: str, *, of: RunningService | None = None, **options: Any
    ) -> HttpAnswer:
        url = (of or next(self._turn)).url + path
        options = {"headers": self.company.authorization, "timeout": 40, **options}
        return HttpAnswer(self.http.request(method, url, **options))

    def calls(self) -> list[str]:
        """The calls about sessions that reached KSeF: method and status (None: no answer)."""
        return [
            f"{call.method} {call.status}"
            for call in self.control.calls("test")
            if "/sessions/" in call.path or call.service == "storage"
        ]

    def keep_answers(self) -> None:
        """Ask both once, while all is well."""
        account = self.company.account()
        reference, number = self.session.reference_number, self.session.ksef_numbers[0]
        status.check_session(account, reference)
        upo.fetch_upo(account, reference, number, "xml")
        self.control.clear_calls()

    def stored(self) -> list[Any]:
        """All that is kept and archived, and all links."""
        rows = self.database.execute(
            "SELECT t::text FROM kept_invoices t UNION ALL SELECT t::text FROM upos t"
            " UNION ALL SELECT t::text FROM kept_refusals t UNION ALL"
            " SELECT concat(reference_number, session, checked_at, final) FROM kept_sessions t"
        )
        return [*sorted(rows), self.links()]

    def links(self) -> tuple[Any, Any]:
        """The sessions in the company's rows."""
        account = self.company.account()
        return synced_sessions(self.database, account), offline_sessions(self.database, account)

    def linked(self) -> list[bool]:
        """Of each row, whether it is linked to the session."""
        synced, offline = self.links()
        sessions = [*synced.values(), *(session for _, session in offline)]
        return [session == self.session.reference_number for session in sessions]

    def wrote_nothing(self) -> bool:
        """Nothing is kept, archived or linked."""
        kept, links = self.stored()[:-1], self.links()
        return not kept and not any([*links[0].values(), *(s for _, s in links[1])])


@pytest.fixture
def asker(
    make_company: Callable[..., Company],
    control: Control,
    database: Any,
    relay: Relay,
    service: Service,
    replicas: list[RunningService],
    logged: Logged,
) -> Iterator[Asker]:
    company = make_company(NIP, environments=("test",))
    session = control.seed_session("test", NIP, invoices=2)
    add_synced(database, company.account(), session.ksef_numbers)
    add_offline(database, company.account(), [session.reference_number])
    relay.drop()
    logged.clear()
    with requests.Session() as http:
        http.trust_env = False
        yield Asker(company, session, control, database, relay, service, replicas, http)
    text = logged.text()
    for secret in SECRETS:
        assert secret not in text
