"""What the control plane can change about the sandbox's behaviour."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

Limits = dict[str, tuple[int, int, int]]


@dataclass
class Settings:
    """All durations are seconds of sandbox time, but latency and jitter, which are real time."""

    access_token_seconds: float = 900.0
    refresh_token_seconds: float = 7 * 86400.0
    operation_token_seconds: float = 45 * 60.0
    challenge_seconds: float = 600.0
    auth_polls: int = 1
    """How many times GET /auth/{ref} says 100 before the outcome."""
    auth_seconds: float = 0.0
    """… and how long it says so at least."""
    invoice_seconds: float = 1.0
    """From reception to the invoice's outcome; the first third of it is 100, the rest 150."""
    session_seconds: float = 1.0
    """From closing to the session's outcome, at the earliest when all invoices have theirs."""
    permanent_storage_seconds: float = 2.0
    """From acceptance to `permanentStorageDate`."""
    link_seconds: float = 72 * 3600.0
    upo_page_size: int = 10_000
    latency_seconds: float = 0.0
    jitter_seconds: float = 0.0
    """Every call arrives, and is counted, later by a random time up to so much."""
    clock_rate: float = 1.0
    """Seconds that pass in a real one."""
    quota: bool = False
    quota_scale: float = 1.0
    """The length of a second, a minute and an hour of the quota, times this."""
    limits: Limits = field(default_factory=dict)
    """Groups whose limits differ from KSeF's own: name → (per second, per minute, per hour)."""

    def as_json(self) -> dict[str, Any]:
        """All settings under camelCase names; limits in the shape of GET /rate-limits."""
        answer = {_camel(name): value for name, value in asdict(self).items()}
        answer["limits"] = {
            group: {"perSecond": per[0], "perMinute": per[1], "perHour": per[2]}
            for group, per in self.limits.items()
        }
        return answer

    def update(self, changes: dict[str, Any]) -> None:
        """Takes over camelCase `changes`; ValueError for an unknown name or a wrong type."""
        known = {_camel(entry.name): entry.name for entry in fields(self)}
        for name, value in changes.items():
            if name not in known:
                raise ValueError(f"unknown setting {name}; known: {', '.join(sorted(known))}")
            attribute = known[name]
            if attribute == "limits":
                self.limits = {group: _limit(per) for group, per in value.items()}
                continue
            present = getattr(self, attribute)
            wanted: tuple[type, ...] = (
                (bool,)
                if isinstance(present, bool)
                else (int,)
                if isinstance(present, int)
                else (int, float)
            )
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted != (bool,)):
                raise ValueError(f"{name}: {value!r} has the wrong type")
            setattr(self, attribute, value)


def _limit(per: Any) -> tuple[int, int, int]:
    if isinstance(per, dict):
        return (
            int(per.get("perSecond", -1)),
            int(per.get("perMinute", -1)),
            int(per.get("perHour", -1)),
        )
    second, minute, hour = per
    return int(second), int(minute), int(hour)


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)
