"""Judges after a run of chaos whether each rule held: of the data (L), of the replicas (R), and of
following (F).

It shares no code with the service. It judges from the sandbox's log of calls, from triggers in the
database and from the answers that clients got: the tables of `evidence.sql`. Each rule is a query
of `rules.sql`, which gives what it looked at, and every violation that it found. To have had
nothing to look at is a violation, too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

FOLDER = Path(__file__).parent
RULES = {
    text[:2]: f"-- {text}"
    for text in re.split(r"^-- (?=[LRF]\d: )", (FOLDER / "rules.sql").read_text(), flags=re.M)[1:]
}
WINDOWS = (1, 60, 3600)  # seconds
LIMITS = {
    "sessionList": (5, 10, 60),
    "sessionMisc": (10, 120, 1200),
    "sessionInvoiceList": (10, 20, 200),
    "invoiceStatus": (30, 120, 1200),
    "other": (10, 30, 120),
}
FETCH = "/sessions/{reference}"
GROUPS = {
    "/sessions": "sessionList",
    FETCH: "sessionMisc",
    f"{FETCH}/upo/{{upo_reference}}": "sessionMisc",
    f"{FETCH}/invoices/ksef/{{ksef_number}}/upo": "sessionMisc",
    f"{FETCH}/invoices": "sessionInvoiceList",
    f"{FETCH}/invoices/{{invoice_reference}}": "invoiceStatus",
    "/rate-limits": "other",
}
"""KSeF's paths, without environment and version, that cost quota; those of the service's calls."""


@dataclass(frozen=True)
class Verdict:
    """A rule, how much was checked (`seen`), and every violation that was found (`broken`)."""

    rule: str
    seen: str
    broken: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        return not self.broken

    def __str__(self) -> str:
        told = f"{self.rule} {'holds' if self.holds else 'BROKEN'}: {self.seen}"
        return "\n".join([told, *(f"   {what}" for what in self.broken[:5])])


class Judge:
    """Hears evidence and gives verdicts, in a PostgreSQL in which there is none yet."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        cursor.execute((FOLDER / "evidence.sql").read_text())
        self.hear(
            "limits",
            [
                {"quota_group": group, "seconds": seconds, "most": most}
                for group, limits in LIMITS.items()
                for seconds, most in zip(WINDOWS, limits, strict=True)
            ],
        )

    def hear(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows, which all have the same columns, to a table of the evidence."""
        if rows:
            columns = ", ".join(rows[0])
            self._cursor.execute(
                f"INSERT INTO {table} ({columns})"
                f" SELECT {columns} FROM json_populate_recordset(NULL::{table}, %s)",
                (msgspec.json.encode(rows).decode(),),
            )

    def hear_of_run(self, **run: float) -> None:
        """Set columns of the table of that name."""
        for column, value in run.items():
            self._cursor.execute(f"UPDATE run SET {column} = %s", (value,))

    def verdict(self, rule: str) -> Verdict:
        """The verdict on one of RULES."""
        self._cursor.execute(RULES[rule])
        [(seen, broken)] = self._cursor.fetchall()
        return Verdict(rule, seen, broken)
