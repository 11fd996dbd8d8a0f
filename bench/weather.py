"""The weather in a run of chaos: fair for a while, then each kind of foul weather, fair between."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from bench.rig import Connection, Rig, Service
from bench.senders import MISSING

SLOW = 0.8  # seconds that a call takes while KSeF is slow
PATIENCE = 20.0  # seconds for which the weather stays until it has met somebody


@dataclass
class Weather:
    """Happens to the replicas; `seen` gets the evidence: spans, tokens_ended, alike.

    `companies`: the headers of each one's user. `deadlocks`: those in a server's log that is not
    there any more. `rounds`: how often all replicas told the same.
    """

    rig: Rig
    replicas: list[Service]
    companies: dict[str, dict[str, str]]
    seen: dict[str, list[dict[str, Any]]]
    deadlocks: int = 0
    rounds: int = 0

    def happen(self, share: Callable[[], float], seconds: float) -> None:
        """`share`: how much of the run is over, 0 to 1; `seconds`: about how long it takes."""

        def until(moment: float) -> None:
            while share() < moment:
                time.sleep(0.1)

        control = self.rig.control
        until(0.15)
        with self._noted("slow"):
            control.settings(latencySeconds=SLOW)
            time.sleep(max(2.5, seconds / 20))
        control.settings(latencySeconds=0.02)
        until(0.3)
        self._refuse(max(4.0, seconds / 12))
        self._end_tokens(max(1.5, seconds / 12))
        until(0.6)
        self._go_down(max(6.0, seconds / 20))
        until(0.85)
        self.deadlocks = self.logged_deadlocks()
        with self.rig.without_database(), self._noted("stop"):
            time.sleep(2.0)

    def logged_deadlocks(self) -> int:
        """How many deadlocks are in the server's log, which begins anew with each start."""
        log = self.rig.server.folder / "server.log"
        return log.read_text(errors="replace").count("deadlock detected")

    @contextmanager
    def _noted(self, kind: str) -> Iterator[None]:
        begun = time.time()
        yield
        self.seen["spans"].append({"kind": kind, "begun": begun, "ended": time.time()})

    def _refuse(self, seconds: float) -> None:
        """KSeF answers 429 to one call or another, of each group."""
        paths = (r"/v2/sessions/[^/]+$", r"/invoices$", r"/invoices/[^/]+$", r"/v2/sessions$")
        control, end = self.rig.control, time.monotonic() + seconds
        for number, path in enumerate(cycle(paths)):
            met = number - len(control.waiting_faults())
            if time.monotonic() > end + (0 if met >= len(paths) else PATIENCE):
                break
            wait = 1 + number % 2
            control.fault("rate-limited", path=path, retryAfter=wait, environment="test")
            time.sleep(0.5)
        control.clear_faults()

    def _end_tokens(self, seconds: float) -> None:
        """KSeF ends access tokens before their time."""
        end = time.monotonic() + seconds
        for nip in cycle(self.companies):
            self.rig.control.expire_bearers("test", kind="access", nip=nip)
            self.seen["tokens_ended"].append({"at": time.time(), "nip": nip})
            time.sleep(1.5)
            if time.monotonic() > end:
                return

    def _go_down(self, seconds: float) -> None:
        """KSeF fails; Latarnia says so later."""
        control = self.rig.control
        control.set_api("test", available=False)
        for status, wanted in (("AVAILABLE", 2), ("FAILURE", 4)):
            control.set_latarnia("test", status)
            end = time.monotonic() + seconds / 2
            while time.monotonic() < end + (0 if self.rounds >= wanted else PATIENCE):
                self._ask_all()
                time.sleep(0.2)
        control.set_latarnia("test", "AVAILABLE")
        control.set_api("test", available=True)
        deadline = time.monotonic() + PATIENCE
        while any(opened for opened, _ in self._known()) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _ask_all(self) -> None:
        """The same of each replica; it counts where what they know stayed the same meanwhile."""
        before = self._known()
        with ThreadPoolExecutor(len(self.replicas)) as pool:
            told = list(pool.map(self._what_is_told, self.replicas))
        if None not in told and before == self._known():
            self.rounds += 1
            self.seen["alike"] += [{"round": self.rounds, **one} for one in told if one]

    def _what_is_told(self, service: Service) -> dict[str, Any] | None:
        headers = next(iter(self.companies.values()))
        for _ in range(3):
            with suppress(OSError), Connection(service.port, headers) as http:
                answer = http.get(f"/invoices/test/status/{MISSING}")
                outage = answer.json.get("outage") or {}
                told = {name: outage.get(name) for name in ("established", "source")}
                return {"status": answer.status, **told}
        return None

    def _known(self) -> list[tuple[Any, ...]]:
        return self.rig.execute("SELECT opened_at IS NOT NULL, latarnia FROM outages")
