"""Everything one running sandbox holds, and how the routes reach it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, cast

from flask import current_app

from sandbox.clock import Clock, stamp
from sandbox.faults import Faults
from sandbox.keys import Signer
from sandbox.quota import Quota
from sandbox.settings import Settings
from sandbox.state import ENVIRONMENTS, Environment


@dataclass
class Call:
    """One call in the log. `status` stays None where the connection ended without an answer."""

    service: str
    environment: str | None
    method: str
    path: str
    query: str
    route: str | None
    at: str
    nip: str | None = None
    status: int | None = None
    fault: str | None = None
    page_size: str | None = None
    has_continuation_token: bool = False
    error_format: str | None = None
    user_agent: str | None = None
    has_bearer: bool = False

    def as_json(self) -> dict[str, Any]:
        """The call under camelCase names."""
        names = {
            "page_size": "pageSize",
            "has_continuation_token": "hasContinuationToken",
            "error_format": "errorFormat",
            "user_agent": "userAgent",
            "has_bearer": "hasBearer",
        }
        return {names.get(name, name): value for name, value in asdict(self).items()}


@dataclass
class World:
    """The state behind one server."""

    clock: Clock = field(default_factory=Clock)
    settings: Settings = field(default_factory=Settings)
    faults: Faults = field(default_factory=Faults)
    quota: Quota = field(default_factory=Quota)
    signer: Signer = field(default_factory=Signer.make)
    environments: dict[str, Environment] = field(
        default_factory=lambda: {name: Environment(name) for name in ENVIRONMENTS}
    )
    calls: deque[Call] = field(default_factory=lambda: deque(maxlen=200_000))
    stopping: threading.Event = field(default_factory=threading.Event)

    def set_down(self, name: str, mode: str = "503-html") -> None:
        """Takes an environment down, and has Latarnia say so."""
        environment = self.environments[name]
        environment.down = mode
        environment.latarnia.status = "FAILURE"
        environment.latarnia.messages = [failure_message(self.clock.now())]

    def reset(self) -> None:
        """Back to the state after start, but for keys and settings given at start."""
        self.clock.reset()
        self.faults.clear()
        self.quota.clear()
        self.calls.clear()
        for environment in self.environments.values():
            environment.clear()


def failure_message(now: datetime) -> dict[str, object]:
    """A Latarnia message about a failure that began at `now`."""
    return {
        "id": f"FAILURE-{now:%Y%m%d%H%M%S}",
        "eventId": int(now.timestamp()),
        "category": "FAILURE",
        "type": "FAILURE_START",
        "title": "Awaria Krajowego Systemu e-Faktur",
        "text": "Trwa awaria KSeF. Faktury można wystawiać w trybie awaryjnym.",
        "start": stamp(now),
        "end": None,
        "version": 1,
        "published": stamp(now),
    }


def world() -> World:
    """The world of the application that handles the present request."""
    return cast(World, current_app.extensions["sandbox"])
