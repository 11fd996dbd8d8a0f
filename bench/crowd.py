"""Clients of a benchmark: connections that ask one question after another, a thread each."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
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
    clients = [
        _Client(replicas[number % len(replicas)].port, crowd, number, began, answers)
        for crowd, answers in zip(crowds, found, strict=True)
        for number in range(crowd.connections)
    ]
    for client in clients:
        client.start()
    time.sleep(max(0.0, began + seconds - monotonic()))
    for client in clients:
        client.http.abort()
    for client in clients:
        client.join()
    return found


class _Client(threading.Thread):
    """One connection. If it is paced, times count from when it should have asked, not from when it
    could: waiting behind a slow answer is part of the next answer's time."""

    def __init__(
        self, port: int, crowd: Crowd, number: int, began: float, answers: Answers
    ) -> None:
        super().__init__(daemon=True)
        self.http = Connection(port, crowd.headers)
        self._answers = answers
        first = number % len(crowd.paths)
        self._paths = cycle([*crowd.paths[first:], *crowd.paths[:first]])
        self._every = crowd.connections / crowd.rate if crowd.rate else 0.0
        self._due = began + self._every * number / crowd.connections
        self._end = began + answers.seconds

    def run(self) -> None:
        while max(self._due, monotonic()) < self._end:
            time.sleep(max(0.0, self._due - monotonic()))
            self._ask()
        self.http.close()

    def _ask(self) -> None:
        began = self._due if self._every else monotonic()
        try:
            answer = self.http.get(next(self._paths))
        except OSError:
            self._due = monotonic()
            if self._due < self._end:  # else it was `ask` that ended it
                self._answers.got.append((0, self._due - began))
            return
        now = monotonic()
        self._answers.got.append((answer.status, now - began))
        self._due = self._due + self._every if self._every else now
        if answer.status == 503:
            self._due = now + float(answer.headers.get("retry-after", 0))
