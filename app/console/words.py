"""Texts, numbers and times of the console, in the language of the reader."""

from dataclasses import dataclass
from datetime import datetime

from app.clock import WARSAW
from app.console.texts import TEXTS

_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"
_SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, slots=True)
class Words:
    """The texts of one language, `pl` or `en`; called with a key and the values for its braces."""

    language: str

    def __call__(self, key: str, **values: object) -> str:
        return TEXTS[self.language][key].format(**values)

    def number(self, value: int) -> str:
        """A number like 10 000, with a narrow no-break space."""
        return f"{value:,}".replace(",", _NARROW_SPACE)

    def count(self, value: int, noun: str) -> str:
        """A number with the right form of a noun, whose forms are the text under the key `noun`."""
        forms = TEXTS[self.language][noun].split("|")
        return f"{self.number(value)}{_SPACE}{forms[self._form(value)]}"

    def percent(self, share: float) -> str:
        """A share (0 to 1) as a whole percentage; at least 1% unless it is 0."""
        percents = max(1, round(share * 100)) if share > 0 else 0
        return f"{percents}{_NARROW_SPACE if self.language == 'pl' else ''}%"

    def day(self, moment: datetime) -> str:
        """A date in Poland: 05.09.2026, or 5 Sep 2026."""
        local = _in_poland(moment)
        if self.language == "pl":
            return f"{local:%d.%m.%Y}"
        return f"{local.day}{_SPACE}{_MONTHS[local.month - 1]}{_SPACE}{local.year}"

    def time(self, moment: datetime) -> str:
        """A date and the time of day in Poland, to the minute."""
        return f"{self.day(moment)},{_SPACE}{_in_poland(moment):%H:%M}"

    def clock(self, moment: datetime) -> str:
        """The time of day in Poland, to the second."""
        return f"{_in_poland(moment):%H:%M:%S}"

    def _form(self, value: int) -> int:
        if value == 1:
            return 0
        if self.language == "pl" and not (2 <= value % 10 <= 4 and value // 10 % 10 != 1):
            return 2
        return 1


def _in_poland(moment: datetime) -> datetime:
    """As clocks there show it; as it is given where that is after Python's last day."""
    try:
        return moment.astimezone(WARSAW)
    except OverflowError:
        return moment
