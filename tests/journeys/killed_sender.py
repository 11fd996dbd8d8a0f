"""An ERP's sender, in a process of its own, which may be killed at any moment.

Before it sends files it commits their numbers and the time to its journal; after KSeF's answer,
that they were sent.
"""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.sandbox.ksef_client import Client, OnlineSession, invoice_xml, sha256, zipped

IN_A_BATCH = 3


def send_for_ever(base: str, token: str, journal: Path, first: int) -> None:
    """Send invoices with the numbers from `first` on, in turn in online sessions and in batches."""
    client = Client(base, access_token=token)
    numbers = iter(range(first, first + 10_000))
    while True:
        session = client.open_session()
        for _ in range(IN_A_BATCH):
            send_online(session, journal, next(numbers))
        session.close()
        send_batch(client, journal, [next(numbers) for _ in range(IN_A_BATCH)])


def send_online(session: OnlineSession, journal: Path, number: int) -> None:
    write(journal, "sending", [number])
    session.send(invoice_xml(name(number)))
    write(journal, "sent", [number])


def send_batch(client: Client, journal: Path, numbers: list[int]) -> None:
    write(journal, "sending", numbers)
    files = {f"f{number}": invoice_xml(name(number)) for number in numbers}
    client.open_batch(zipped(**files)).send()
    write(journal, "sent", numbers)


def name(number: int) -> str:
    return f"FV/{number}"


def hash_of(number: int) -> str:
    return sha256(invoice_xml(name(number)))


def write(journal: Path, what: str, numbers: list[int]) -> None:
    line = json.dumps({"what": what, "numbers": numbers, "at": datetime.now(UTC).isoformat()})
    with journal.open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(journal: Path) -> Iterator[dict[str, Any]]:
    """The whole lines: one that a crash cut off was not committed."""
    if journal.exists():
        for line in journal.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)
