"""A sender that dies between KSeF's answer and its own commit: asked by hash, each file is known.

The ERP's whole rule is: send again what is `not_arrived`, and only that. KSeF says afterwards
whether that was right: no file is missing, and none was sent twice.
"""

import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.services.events.follow import follow_all
from tests.journeys.killed_sender import hash_of, read, send_batch, send_for_ever
from tests.sandbox.ksef_client import Client
from tests.service import Company

pytestmark = pytest.mark.slow

NIP = "5265877635"
KILLS = int(os.environ.get("SENDER_KILLS", "10"))
DELAY = 0.2  # seconds that KSeF may take until its list has what was sent


@pytest.fixture
def settings(settings: Any) -> Any:
    timing = replace(
        settings.timing, arrival=DELAY, follow_overlap=DELAY, follow_moving=0.0, follow_least=0.0
    )
    return replace(settings, timing=timing)


class Erp:
    """What an ERP does after its sender died."""

    def __init__(self, company: Company, client: Client, database: Any, journal: Path) -> None:
        self._company = company
        self._client = client
        self._database = database
        self.journal = journal
        self.states: Counter[str] = Counter()
        self._settled: set[int] = set()

    def recover(self) -> None:
        """Until every file that may have been sent is known, or was sent again."""
        deadline = time.monotonic() + 60
        while unsure := self._unsure():
            assert time.monotonic() < deadline, unsure
            self._close_what_is_open()  # what was on its way may open a session even now
            self._follow()
            for number, sent_at in unsure.items():
                self._decide(number, self._ask(number, sent_at))
            time.sleep(0.05)

    def _close_what_is_open(self) -> None:
        for kind in ("Online", "Batch"):
            listed = self._client.get(f"/sessions?sessionType={kind}&statuses=InProgress").json()
            for session in listed["sessions"]:
                reference = session["referenceNumber"]
                self._client.post(f"/sessions/{kind.lower()}/{reference}/close")

    def _unsure(self) -> dict[int, str]:
        """The files that were about to be sent, with the time, and are not known to be sent."""
        begun: dict[int, str] = {}
        for line in read(self.journal):
            for number in line["numbers"]:
                if line["what"] == "sending":
                    begun[number] = line["at"]
                else:
                    begun.pop(number, None)
        return {number: at for number, at in begun.items() if number not in self._settled}

    def _follow(self) -> None:
        """A round in which everything is due."""
        self._database.execute(
            "UPDATE followed SET list_at = now(), rests_until = '-infinity';"
            "UPDATE followed_sessions SET due_at = now() WHERE due_at IS NOT NULL"
        )
        follow_all(self._company.service)

    def _ask(self, number: int, sent_at: str) -> str:
        query = {"invoiceHash": hash_of(number), "sentAt": sent_at}
        response = self._company.get("/invoices/test", query_string=query)
        assert response.status_code == 200, response.json
        return str(response.json["state"])

    def _decide(self, number: int, state: str) -> None:
        if state == "accepted":
            self._settled.add(number)
        elif state == "not_arrived":
            send_batch(self._client, self.journal, [number])
        else:
            assert state in ("unknown", "processing"), (number, state)
            return
        self.states[state] += 1


def test_each_file_of_a_killed_sender_is_known(
    make_company: Callable[..., Company],
    control: Any,
    sandbox: Any,
    database: Any,
    tmp_path: Path,
) -> None:
    base = f"{sandbox.url}/test/v2"
    company = make_company(NIP, environments=("test",))
    client = Client(base).log_in(control.add_token("test", NIP))
    erp = Erp(company, client, database, tmp_path / "journal")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.journeys.killed_sender"])
    dice = random.Random(7)
    for kill in range(KILLS):
        sender = processes.Process(
            target=send_for_ever, args=(base, client.access_token, erp.journal, kill * 10_000)
        )
        sender.start()
        time.sleep(dice.uniform(0.05, 0.5))
        sender.kill()
        sender.join()
        erp.recover()

    control.advance(60)  # what was sent last is worked on by now
    client = Client(base).log_in(control.add_token("test", NIP))
    sent = {number for line in read(erp.journal) for number in line["numbers"]}
    held: Counter[str] = Counter()
    for reference in control.session_references("test"):
        for page in client.pages(reference):
            for invoice in page:
                assert invoice["status"]["code"] == 200, invoice
                held[invoice["invoiceHash"]] += 1
    print(KILLS, "kills:", len(sent), "files,", dict(erp.states))
    assert sent
    assert held == Counter(hash_of(number) for number in sent)
