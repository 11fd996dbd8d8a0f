"""A company that is followed, and its clock."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from app.services.events import follow
from app.services.sessions.following import known as known_of
from tests.services.conftest import Asking, asking  # noqa: F401 - a fixture

_MOMENTS = {
    "followed": ("known_since", "known_until", "listed_until", "list_at", "rests_until"),
    "followed_sessions": ("date_created", "found_at", "read_at", "due_at", "moving_since"),
    "quota_calls": ("reserved_at",),
}


@dataclass(frozen=True)
class Following:
    """Rounds of following, and what they did."""

    asking: Asking

    def round(self) -> dict[str, int]:
        """One round; KSeF's calls in it."""
        self.asking.control.clear_calls()
        follow.follow_all(self.asking.service)
        return self.asking.counts()

    def later(self, seconds: float = 301.0) -> None:
        """As if so many seconds had passed."""
        for table, columns in _MOMENTS.items():
            changes = ", ".join(f"{c} = {c} - interval '{seconds} seconds'" for c in columns)
            self.asking.database.execute(f"UPDATE {table} SET {changes}")
        self.asking.age(seconds)

    def sessions(self, column: str) -> list[Any]:
        """A column of the sessions found, the oldest session first."""
        rows = self.asking.database.execute(
            f"SELECT {column} FROM followed_sessions ORDER BY date_created, reference_number"
        )
        return [value for (value,) in rows]

    @property
    def known_until(self) -> Any:
        known = known_of(self.asking.account)
        return known.until if known else None


@pytest.fixture
def settings(settings: Any) -> Any:
    # Nothing that moves is waited for; one list tells of all that happened before.
    timing = replace(settings.timing, follow_moving=0.0, follow_before=21_000.0)
    return replace(settings, timing=timing)


@pytest.fixture
def following(asking: Asking) -> Following:  # noqa: F811
    return Following(asking)
