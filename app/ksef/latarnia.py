"""Latarnia ("lighthouse"), the Ministry's public service that says whether KSeF is available.

Shapes follow the documentation of the Latarnia API. Latarnia itself may be down for hours, and its
test instance always says TOTAL_FAILURE. So its word is only evidence, which counts together with
failed calls (see `services.replicas.breaker`), and its silence means nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from app import telemetry
from app.ksef import deadline, failures, http
from app.ksef.wire import UNREADABLE, YEARS, Time

AVAILABLE, MAINTENANCE = "AVAILABLE", "MAINTENANCE"
FAILURE, TOTAL_FAILURE = "FAILURE", "TOTAL_FAILURE"
_STATUSES = frozenset({AVAILABLE, MAINTENANCE, FAILURE, TOTAL_FAILURE})
_LIMIT = 2**20
_LONGEST_TEXT = 2000


class NotUnderstood(Exception):
    """The answer is not what Latarnia's documentation promises; the text says what it is."""


FAILED = (*http.BROKEN, http.TooLong, NotUnderstood)
"""What `Latarnia.told` raises."""


class _Message(msgspec.Struct, rename="camel"):
    """What Latarnia says about an event, in one of its versions."""

    event_id: int
    version: int
    category: Literal["MAINTENANCE", "FAILURE", "TOTAL_FAILURE"]
    type: Literal["FAILURE_START", "FAILURE_END", "MAINTENANCE_ANNOUNCEMENT"]
    start: Time
    published: Time
    end: Time | None = None
    title: str | None = None
    text: str | None = None

    @property
    def rank(self) -> tuple[int, bool, datetime]:
        """Of an event's messages the one that ranks highest holds."""
        return self.version, self.type == "FAILURE_END", self.published


@dataclass(frozen=True, slots=True)
class Event:
    """An outage or maintenance, in the newest version of what Latarnia says about it.

    `category` is MAINTENANCE, FAILURE or TOTAL_FAILURE; `end` is None while no end is known;
    `published` is when Latarnia said it, None of a simulation.
    """

    category: str
    title: str
    text: str
    start: datetime
    end: datetime | None
    published: datetime | None = None

    def covers(self, moment: datetime) -> bool:
        return self.start <= moment and (self.end is None or self.end > moment)


@dataclass(frozen=True, slots=True)
class Reading:
    """What Latarnia said at one moment: its status, and the newest version of each event."""

    status: str
    events: Sequence[Event]

    @property
    def is_outage(self) -> bool:
        return self.status != AVAILABLE


class Latarnia:
    """The Latarnia of one environment, at `url`; each question takes at most `seconds`."""

    def __init__(
        self,
        url: str,
        *,
        seconds: float,
        proxy_url: str | None = None,
        ca_bundle: str | None = None,
    ) -> None:
        self._url = url
        self._seconds = seconds
        self._session = http.session(1, proxy_url, ca_bundle)

    def ask(self) -> Any:
        """Latarnia's own JSON, to be stored and read with `understood`; None if it fails."""
        try:
            return self.told()
        except FAILED as error:
            kind, reason = type(error).__name__, failures.why(error)
            telemetry.warning("Latarnia gave no usable answer", kind=kind, reason=reason)
            return None

    def told(self) -> Any:
        """As `ask`; raises one of FAILED if it fails."""
        with deadline.exchange(self._seconds, connect=self._seconds) as exchange:
            said = self._get("/status", exchange)
            status, messages = _status(said), _list(said.get("messages"))
            if status != AVAILABLE:  # the end of an event may be only there
                messages += _list(self._get("/messages", exchange))
        return {"status": status, "messages": [one for one in messages if _message(one)]}

    def _get(self, path: str, exchange: deadline.Exchange) -> Any:
        with self._session.get(self._url + path, timeout=self._seconds) as response:
            if response.status_code != 200:
                raise NotUnderstood(f"HTTP {response.status_code}")
            body = http.read(response, _LIMIT, exchange.until)
        try:
            return msgspec.json.decode(body)
        except UNREADABLE:
            raise NotUnderstood("no JSON") from None


def understood(kept: Any) -> Reading | None:
    """A stored answer as a Reading, without the messages that cannot be understood.

    None if there is no answer, or its status is unknown.
    """
    try:
        return Reading(_status(kept), _events(kept.get("messages"))) if kept else None
    except NotUnderstood:
        return None


def _status(body: Any) -> str:
    status = body.get("status") if isinstance(body, dict) else None
    if status not in _STATUSES:
        raise NotUnderstood("no status that is known")
    return str(status)


def _list(value: Any) -> list[Any]:
    """A list of messages, which Latarnia leaves out if there are none."""
    if value is not None and not isinstance(value, list):
        raise NotUnderstood("messages that are no list")
    return value or []


def _events(messages: Any) -> list[Event]:
    """One event for each eventId: from its highest version; of equal ones from its end."""
    newest: dict[int, _Message] = {}
    for message in filter(None, map(_message, _list(messages))):
        earlier = newest.get(message.event_id)
        if earlier is None or earlier.rank < message.rank:
            newest[message.event_id] = message
    return sorted(map(_event, newest.values()), key=lambda event: event.start)


def _message(json: Any) -> _Message | None:
    """A message; None if it cannot be understood or stored: PostgreSQL takes no NUL."""
    try:
        message = msgspec.convert(json, _Message)
    except UNREADABLE:
        return None
    told = message.start.year in YEARS and message.published.year in YEARS
    return message if told and rb"\u0000" not in msgspec.json.encode(json) else None


def _event(message: _Message) -> Event:
    end = message.end
    if end is None and message.type == "FAILURE_END":  # it ended when that was published
        end = message.published
    return Event(
        category=message.category,
        title=(message.title or "")[:_LONGEST_TEXT],
        text=(message.text or "")[:_LONGEST_TEXT],
        start=message.start,
        end=end if end and end.year in YEARS else None,  # else it means that none is known
        published=message.published,
    )
