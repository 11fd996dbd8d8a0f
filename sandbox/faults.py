"""Which faults are waiting, and for which calls. What they do stands in `fault_answers`."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

SERVICES: Final = ("api", "storage", "latarnia", "any")

INSTEAD: Final = frozenset(
    {
        "status",
        "html-503",
        "html-200",
        "waf-403",
        "waf-html-403",
        "waf-html-200",
        "forbidden",
        "unauthorized",
        "ksef-error",
        "rate-limited",
        "invalid-json",
        "gzip-bomb",
        "oversize",
        "reset",
        "hang",
    }
)
"""Faults that answer (or end the connection) before the sandbox has handled the call."""

AFTERWARDS: Final = frozenset(
    {
        "delay",
        "truncated",
        "cut-mid-body",
        "cut-chunk",
        "no-length",
        "drip",
        "reset-after",
        "set-header",
        "set-field",
        "drop-field",
        "repeat-continuation-token",
        "empty-page-with-token",
        "duplicate-invoice",
        "shorter-list",
        "wrong-hash",
        "no-hash",
        "upo-other-nip",
        "upo-other-session",
        "upo-other-ksef-number",
        "upo-doctype",
        "upo-pdf",
    }
)
"""Faults that spoil, delay or cut the true answer; the call itself has been carried out."""


_NEEDED: Final = {
    "status": ("status",),
    "ksef-error": ("code",),
    "set-header": ("name",),
    "set-field": ("field",),
    "drop-field": ("field",),
}


@dataclass
class Fault:
    """A fault and the calls it waits for. `times` None: until it is cleared."""

    id: int
    kind: str
    options: dict[str, Any]
    environment: str | None
    service: str
    method: str | None
    path: re.Pattern[str] | None
    times: int | None
    skip: int

    def matches(self, service: str, environment: str | None, method: str, path: str) -> bool:
        """Whether the call is one that this fault waits for."""
        return (
            self.service in ("any", service)
            and self.environment in (None, environment)
            and self.method in (None, method)
            and (self.path is None or self.path.search(path) is not None)
        )

    def as_json(self) -> dict[str, Any]:
        """The fault as the control plane shows it."""
        return {
            "id": self.id,
            "environment": self.environment,
            "service": self.service,
            "method": self.method,
            "path": self.path.pattern if self.path else None,
            "times": self.times,
            "skip": self.skip,
            "fault": {"kind": self.kind, **self.options},
        }


class Faults:
    """The waiting faults, oldest first; each call meets at most one of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids = count(1)
        self._waiting: list[Fault] = []

    def add(self, order: dict[str, Any]) -> Fault:
        """Takes an order in the shape of POST /_sandbox/faults; ValueError if it is wrong."""
        unknown = set(order) - {
            "environment",
            "service",
            "method",
            "path",
            "times",
            "skip",
            "fault",
        }
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        options = dict(order.get("fault") or {})
        kind = options.pop("kind", "status" if "status" in options else None)
        if kind not in INSTEAD | AFTERWARDS:
            known = ", ".join(sorted(INSTEAD | AFTERWARDS))
            raise ValueError(f"unknown fault {kind!r}; known: {known}")
        for name in _NEEDED.get(kind, ()):
            if name not in options:
                raise ValueError(f"fault {kind} needs {name}")
        service = order.get("service", "api")
        if service not in SERVICES:
            raise ValueError(f"unknown service {service!r}; known: {', '.join(SERVICES)}")
        method = order.get("method")
        try:
            path = re.compile(order["path"]) if order.get("path") else None
        except re.error as error:
            raise ValueError(f"path: {error}") from None
        with self._lock:
            fault = Fault(
                id=next(self._ids),
                kind=kind,
                options=options,
                environment=order.get("environment"),
                service=service,
                method=method.upper() if method else None,
                path=path,
                times=order.get("times", 1),
                skip=int(order.get("skip", 0)),
            )
            self._waiting.append(fault)
            return fault

    def take(self, service: str, environment: str | None, method: str, path: str) -> Fault | None:
        """The fault that this call meets, used up by one."""
        with self._lock:
            for fault in self._waiting:
                if not fault.matches(service, environment, method, path):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._waiting.remove(fault)
                return fault
        return None

    @staticmethod
    def stand_in(kind: str) -> Fault:
        """A fault that waits for nobody: for an environment that is down altogether."""
        return Fault(0, kind, {"seconds": 3600}, None, "any", None, None, None, 0)

    def waiting(self) -> list[Fault]:
        """What still waits."""
        with self._lock:
            return list(self._waiting)

    def clear(self, fault_id: int | None = None) -> None:
        """Removes one fault, or all."""
        with self._lock:
            self._waiting = [
                fault for fault in self._waiting if fault_id is not None and fault.id != fault_id
            ]
