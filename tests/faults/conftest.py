"""The service before a KSeF that fails as networks and KSeF do, over real sockets.

| fixture | gives |
|---|---|
| `relay` | the TCP relay that stands between the service and the sandbox, passing everything on |
| `asker` | a logged-in company with a finished session: both questions, cold or already answered |
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.services import status, upo
from app.services.parts import Parts
from app.settings import ENVIRONMENTS, Settings
from sandbox.control import Control, SeededSession
from sandbox.relay import Relay, start
from tests.rows import add_offline, add_synced, offline_sessions, synced_sessions
from tests.service import Company

NIP = "5265877635"


@pytest.fixture
def relay(sandbox: Any) -> Iterator[Relay]:
    with start(urlsplit(sandbox.url).port) as relay:
        yield relay


@pytest.fixture
def settings(settings: Settings, relay: Relay) -> Settings:
    """Those of every test, with the relay before KSeF."""
    urls = {name: f"{relay.url}/{name}/v2" for name in ENVIRONMENTS}
    timing = replace(settings.timing, ksef_connect=0.5, ksef_call=1.0, retry_left=1.0)
    return replace(settings, ksef_urls=urls, timing=timing)


@pytest.fixture
def logged(app: Any) -> Iterator[list[str]]:
    """The lines of the service's log, as they are written."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(log.handlers[0].format(record))

    log = logging.getLogger("ksef_proxy")
    keep = Keep()
    log.addHandler(keep)
    yield lines
    log.removeHandler(keep)


@dataclass
class Asker:
    """Asks both questions of one session."""

    company: Company
    session: SeededSession
    control: Control
    database: Any
    relay: Relay
    parts: Parts

    @property
    def paths(self) -> dict[str, str]:
        base = f"/invoices/test/status/{self.session.reference_number}"
        return {"status": base, "upo": f"{base}/{self.session.ksef_numbers[0]}/upo"}

    def ask(self, endpoint: str) -> Any:
        return self.company.get(self.paths[endpoint])

    def calls(self) -> list[str]:
        """The calls that reached KSeF about sessions: method and status (None: no answer)."""
        return [
            f"{call.method} {call.status}"
            for call in self.control.calls("test")
            if "/sessions/" in call.path
        ]

    def keep_answers(self) -> None:
        """Ask both once, while all is well."""
        place = self.company.place()
        reference, number = self.session.reference_number, self.session.ksef_numbers[0]
        status.check_session(self.parts, place, reference)
        upo.fetch_upo(self.parts, place, reference, number, "xml")
        self.control.clear_calls()

    def wrote_nothing(self) -> bool:
        """Nothing is kept, archived or linked."""
        counts = self.database.execute(
            "SELECT (SELECT count(*) FROM kept_sessions) + (SELECT count(*) FROM kept_invoices)"
            " + (SELECT count(*) FROM upos) + (SELECT count(*) FROM kept_refusals)"
        )
        place = self.company.place()
        linked = [
            *synced_sessions(self.database, place).values(),
            *(session for _, session in offline_sessions(self.database, place)),
        ]
        return counts == [(0,)] and not any(linked)


@pytest.fixture
def asker(
    make_company: Callable[..., Company],
    control: Control,
    database: Any,
    relay: Relay,
    parts: Parts,
    logged: list[str],
) -> Iterator[Asker]:
    company = make_company(NIP, environments=("test",))
    session = control.seed_session("test", NIP, invoices=2)
    add_synced(database, company.place(), session.ksef_numbers)
    add_offline(database, company.place(), [session.reference_number])
    relay.drop()
    logged.clear()
    yield Asker(company, session, control, database, relay, parts)
    for secret in ("Bearer", "sig=", "<html", NIP):  # KSeF numbers begin with the NIP
        assert secret not in "".join(logged)
