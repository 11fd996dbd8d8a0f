"""Clients of a benchmark: connections that ask one question after another, a thread each."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from threading import Thread
from time import monotonic

from bench.rig import Connection, Service


@dataclass
class Crowd:
    """Connections of one user. Each asks for the paths in turn, all of them `rate` times a second
    (None: as fast as they are answered). Who is refused with a 503 waits for as long as it says."""

    connections: int
    headers: dict[str, str]
    paths: list[str]
    rate: float | None = None


@dataclass
class Answers:
    """What a crowd got in so many seconds: of each answer the status, and the seconds it took.

    Status 0: the connection ended without an answer.
    """

    seconds: float
    got: list[tuple[int, float]] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[int]:
        return Counter(status for status, _ in self.got)

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.statuses[200] / self.seconds

    def percentile(self, share: float) -> float:
        """The seconds within which this share (0 to 1) of the good answers came."""
        taken = sorted(seconds for status, seconds in self.got if status == 200)
        return taken[int(share * (len(taken) - 1))]

    def __str__(self) -> str:
        return ", ".join(f"{n} × {status}" for status, n in sorted(self.statuses.items()))


def ask(replicas: Sequence[Service], seconds: float, *crowds: Crowd) -> list[Answers]:
    """What each crowd got, all asking at the same time, the replicas in turn."""
    began = monotonic()
    found = [Answers(seconds) for _ in crowds]
    clients = []
    for crowd, answers in zip(crowds, found, strict=True):
        for number in range(crowd.connections):
            http = Connection(replicas[number % len(replicas)].port, crowd.headers)
            values = (http, crowd, number, began, answers)
            clients.append((http, Thread(target=_ask_on, args=values, daemon=True)))
    for _, thread in clients:
        thread.start()
    time.sleep(max(0.0, began + seconds - monotonic()))
    for http, _ in clients:
        http.abort()
    for _, thread in clients:
        thread.join()
    return found


def _ask_on(http: Connection, crowd: Crowd, number: int, began: float, answers: Answers) -> None:
    """One connection of a crowd. If it is paced, times count from when it should have asked, not
    from when it could: waiting behind a slow answer is part of the next answer's time."""
    first, end = number % len(crowd.paths), began + answers.seconds
    every = crowd.connections / crowd.rate if crowd.rate else 0.0
    due = began + every * number / crowd.connections
    for path in cycle([*crowd.paths[first:], *crowd.paths[:first]]):
        if max(due, monotonic()) >= end:
            break
        time.sleep(max(0.0, due - monotonic()))
        asked = due if every else monotonic()
        try:
            answer = http.get(path)
        except OSError:
            due = monotonic()
            if due < end:  # else it was `ask` that ended it
                answers.got.append((0, due - asked))
            continue
        now = monotonic()
        answers.got.append((answer.status, now - asked))
        due = due + every if every else now
        if answer.status == 503:
            due = now + float(answer.headers.get("retry-after", 0))
    http.close()
