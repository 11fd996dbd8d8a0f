"""How KSeF's quota is used, for operators and the console."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.account import Account
from app.db.queries import quota as queries
from app.ksef.limits import PUBLISHED, WINDOWS, Limits
from app.services.replicas.quota import own_limits

SLOT = 300
"""Length, in seconds, of the parts into which `last_hour` divides the hour."""


@dataclass(frozen=True, slots=True)
class GroupUse:
    """A group's calls in the last second, minute and hour, and how many of each we may make.

    `limits` is our share of KSeF's limits, -1 for no limit. `slots` are the calls of the last hour
    in parts of SLOT seconds, the oldest first.
    """

    group: str
    limits: Limits
    per_second: int
    per_minute: int
    per_hour: int
    slots: Sequence[int]
    blocked_until: datetime | None

    @property
    def share(self) -> float:
        """How much of our hourly limit is used: 0 for nothing, 1 for all of it."""
        return self.per_hour / self.limits.per_hour if self.limits.per_hour > 0 else 0.0


def show(account: Account) -> Sequence[Any]:
    """The groups that were used: quota_group, used_minute, used_hour, the company's own per_second,
    per_minute, per_hour (None if not read yet), and blocked_until."""
    return account.db.rows(queries.show_groups, **account.columns)


def clear(account: Account) -> int:
    """Lift the blocks of a company's groups. Returns how many there were."""
    lifted: int = account.db.run(queries.unblock_groups, **account.columns)
    return lifted


def last_hour(account: Account) -> Sequence[GroupUse]:
    """How each group was used in the last hour, for the console."""
    rows = {row.quota_group: row for row in account.db.rows(queries.last_hour, **account.columns)}
    return [_use(group, rows.get(group), account.quota_share) for group in PUBLISHED]


def _use(group: str, row: Any, share: float) -> GroupUse:
    # A call that was reserved for a later moment has a negative age; it counts as made now.
    ages = [max(0.0, age) for age in row.ages] if row else []
    slots = [0] * (WINDOWS[-1] // SLOT)
    for age in ages:
        slots[-1 - min(int(age / SLOT), len(slots) - 1)] += 1
    per_second, per_minute, per_hour = (sum(age < seconds for age in ages) for seconds in WINDOWS)
    return GroupUse(
        group,
        own_limits(row, group, share),
        per_second,
        per_minute,
        per_hour,
        slots,
        row.blocked_until if row else None,
    )
