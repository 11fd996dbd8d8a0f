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
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
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
    pauses = {"follow_moving": 0.0, "follow_least": 0.0, "quota_scale": 1e-4, "quota_jitter": 0.0}
    timing = replace(settings.timing, arrival=DELAY, follow_overlap=DELAY, **pauses)
    return replace(settings, timing=timing)


class Erp:
    """What an ERP does after its sender died."""

    def __init__(
        self, company: Company, client: Client, control: Any, database: Any, journal: Path
    ) -> None:
        self._company = company
        self._client = client
        self._control = control
        self._database = database
        self.journal = journal
        self.states: Counter[str] = Counter()
        self.seconds: list[float] = []
        """From the sender's death to each answer that decides."""
        self._settled: set[int] = set()

    def recover(self) -> None:
        """Until every file that may have been sent is known, or was sent again."""
        began = time.monotonic()
        while unsure := self.unsure():
            assert time.monotonic() < began + 60, unsure
            over = self._close_what_is_open()  # what was on its way may open a session even now
            self._follow()
            for number, sent_at in unsure.items():
                if self._decide(number, sent_at, must=over):
                    self.seconds.append(time.monotonic() - began)
            time.sleep(0.05)

    def _close_what_is_open(self) -> bool:
        """Whether nothing was open, or is still worked on."""
        over = True
        for kind in ("Online", "Batch"):
            listed = self._client.get(f"/sessions?sessionType={kind}&statuses=InProgress").json()
            for session in listed["sessions"]:
                over = False
                reference = session["referenceNumber"]
                answer = self._client.post(f"/sessions/{kind.lower()}/{reference}/close")
                if "21205" in answer.text:  # a part was never uploaded: KSeF waits for 20 minutes
                    self._control.change_session("test", reference, state="failed", code=440)
        return over

    def unsure(self) -> dict[int, str]:
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

    def _decide(self, number: int, sent_at: str, *, must: bool) -> bool:
        """Whether the answer decides. It `must` once all of that time is known."""
        query = {"invoiceHash": hash_of(number), "sentAt": sent_at}
        response = self._company.get("/invoices/test", query_string=query)
        assert response.status_code == 200, response.json
        state, known_until = response.json["state"], response.json["knownUntil"]
        if state == "accepted":
            self._settled.add(number)
        elif state == "not_arrived":
            send_batch(self._client, self.journal, [number])
        else:
            assert state in ("unknown", "processing"), (number, state)
            late = timedelta(seconds=DELAY)
            known = known_until and _moment(known_until) > _moment(sent_at) + late
            assert not (must and known), (number, sent_at, response.json)
            return False
        self.states[state] += 1
        return True


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


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
    erp = Erp(company, client, control, database, tmp_path / "journal")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.journeys.killed_sender"])
    dice = random.Random(7)
    control.settings(jitterSeconds=0.02, latencySeconds=0.02)  # a call takes so long each way
    hits = kills = 0
    while hits < KILLS:
        kills += 1
        sender = processes.Process(
            target=send_for_ever, args=(base, client.access_token, erp.journal, kills * 10_000)
        )
        sender.start()
        time.sleep(dice.uniform(0.05, 0.5))
        while not erp.unsure():
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.05))
        sender.kill()
        sender.join()
        hits += bool(erp.unsure())
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
    files, answers = sum(held.values()), dict(erp.states)
    print(f"{kills} kills, {hits} before a commit: {len(sent)} files, {files} at KSeF; {answers}")
    print(f"decided after {median(erp.seconds):.1f} s, the last {max(erp.seconds):.1f} s")
    assert sent
    assert held == Counter(hash_of(number) for number in sent)
