"""Everything one running sandbox holds, and how the routes reach it."""

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Final, cast

from flask import current_app

from sandbox.clock import Clock
from sandbox.faults import Faults
from sandbox.orders import Call
from sandbox.quota import Quota
from sandbox.settings import Settings
from sandbox.state import ENVIRONMENTS, Environment

CALLS_KEPT: Final = 50_000


@dataclass
class World:
    """The state behind one server."""

    clock: Clock = field(default_factory=Clock)
    settings: Settings = field(default_factory=Settings)
    faults: Faults = field(default_factory=Faults)
    quota: Quota = field(default_factory=Quota)
    environments: dict[str, Environment] = field(
        default_factory=lambda: {name: Environment(name) for name in ENVIRONMENTS}
    )
    calls: deque[Call] = field(default_factory=lambda: deque(maxlen=CALLS_KEPT))
    """The newest calls, oldest first."""
    stopping: threading.Event = field(default_factory=threading.Event)
    down_from_start: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._settings_at_start = self.settings
        self._take_down()

    def _take_down(self) -> None:
        """Takes down what is down from the start, and has Latarnia say so."""
        for name in self.down_from_start:
            self.environments[name].down = "503-html"
            self.environments[name].latarnia.say("FAILURE", self.clock.now())

    def reset(self) -> None:
        """Back to the state after start; only the keys stay."""
        self.settings = self._settings_at_start
        self.clock.reset()
        self.faults.clear()
        self.quota.clear()
        self.calls.clear()
        for environment in self.environments.values():
            environment.clear()
        self._take_down()


def world() -> World:
    """The world of the application that handles the present request."""
    return cast(World, current_app.extensions["sandbox"])
