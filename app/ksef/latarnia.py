"""Latarnia ("lighthouse"), the Ministry's public service that says whether KSeF is available.

Shapes follow the documentation of the Latarnia API. Latarnia itself may be down for hours, and its
test instance always says TOTAL_FAILURE. So its word is only evidence, which counts together with
failed calls (see `services.breaker`), and its silence means nothing.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import requests
import urllib3

from app import clock, telemetry
from app.ksef.transport import USER_AGENT

AVAILABLE, MAINTENANCE = "AVAILABLE", "MAINTENANCE"
FAILURE, TOTAL_FAILURE = "FAILURE", "TOTAL_FAILURE"
_STATUSES = frozenset({AVAILABLE, MAINTENANCE, FAILURE, TOTAL_FAILURE})
_CATEGORIES = _STATUSES - {AVAILABLE}
_TYPES = frozenset({"FAILURE_START", "FAILURE_END", "MAINTENANCE_ANNOUNCEMENT"})
_LIMIT = 2**20
_CHUNK = 64 * 2**10
_LONGEST_TEXT = 2000
_LAST_YEAR = 9998  # of which every moment can be told in every time zone


class _NotUnderstood(Exception):
    """The answer is not what Latarnia's documentation promises."""


@dataclass(frozen=True, slots=True)
class Event:
    """An outage or maintenance, in the newest version of what Latarnia says about it.

    `category` is MAINTENANCE, FAILURE or TOTAL_FAILURE; `end` is None while no end is known.
    """

    category: str
    title: str
    text: str
    start: datetime
    end: datetime | None

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
        self._proxies = {"http": proxy_url, "https": proxy_url} if proxy_url else {}
        self._verify = ca_bundle or True

    def ask(self) -> Any:
        """Latarnia's own JSON, to be stored and read with `understood`; None if it fails.

        It is asked in a thread of its own, so that it never takes the caller more than `seconds`,
        not even for resolving its name.
        """
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(self._ask()), daemon=True)
        thread.start()
        thread.join(self._seconds)
        return found[0] if found else None

    def _ask(self) -> Any:
        deadline = clock.monotonic() + self._seconds
        try:
            with requests.Session() as http:
                http.trust_env = False
                http.headers["User-Agent"] = USER_AGENT
                said = _object(self._get(http, "/status", deadline))
                messages = _messages(said)
                if said.get("status") != AVAILABLE:  # the end of an event may be only there
                    messages = [*messages, *_array(self._get(http, "/messages", deadline))]
            kept = {"status": said.get("status"), "messages": messages}
            read(kept)
            _require_storable(kept)
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            orjson.JSONDecodeError,
            _NotUnderstood,
        ) as error:
            telemetry.warning("Latarnia gave no usable answer", kind=type(error).__name__)
            return None
        return kept

    def _get(self, http: requests.Session, path: str, deadline: float) -> Any:
        with http.get(
            self._url + path,
            timeout=max(0.01, deadline - clock.monotonic()),
            allow_redirects=False,
            stream=True,
            proxies=self._proxies,
            verify=self._verify,
        ) as response:
            if response.status_code != 200:
                raise _NotUnderstood
            body = bytearray()
            while chunk := response.raw.read1(_CHUNK, decode_content=True):
                body += chunk
                if len(body) > _LIMIT or clock.monotonic() > deadline:
                    raise _NotUnderstood
        return orjson.loads(body)


def understood(kept: Any) -> Reading | None:
    """A stored answer as a Reading; None if there is none or it cannot be understood."""
    try:
        return read(kept) if kept else None
    except _NotUnderstood:
        return None


def read(body: Any) -> Reading:
    """Latarnia's JSON as a Reading; raises _NotUnderstood if any part of it is unknown."""
    json = _object(body)
    status = json.get("status")
    if status not in _STATUSES:
        raise _NotUnderstood
    return Reading(status, _events(_messages(json)))


def _messages(json: dict[str, Any]) -> list[Any]:
    """The messages, which Latarnia leaves out if there are none."""
    messages = json.get("messages")
    return [] if messages is None else _array(messages)


def _events(messages: Iterable[Any]) -> list[Event]:
    """One event for each eventId: from its highest version; of equal ones from its end."""
    newest: dict[int, tuple[tuple[int, bool, datetime], Event]] = {}
    for message in map(_object, messages):
        number, rank, event = _message(message)
        if number not in newest or newest[number][0] < rank:
            newest[number] = (rank, event)
    return sorted((event for _, event in newest.values()), key=lambda event: event.start)


def _message(json: dict[str, Any]) -> tuple[int, tuple[int, bool, datetime], Event]:
    category, kind = json.get("category"), json.get("type")
    if category not in _CATEGORIES or kind not in _TYPES:
        raise _NotUnderstood
    is_end = kind == "FAILURE_END"
    published, end = _time(json.get("published")), json.get("end")
    event = Event(
        category=category,
        title=_text(json.get("title")),
        text=_text(json.get("text")),
        start=_time(json.get("start")),
        # An end without a moment ended when it was published.
        end=_end(end) if end is not None else published if is_end else None,
    )
    return _integer(json.get("eventId")), (_integer(json.get("version")), is_end, published), event


def _require_storable(body: Any) -> None:
    """Raises _NotUnderstood if the JSON holds a NUL, which PostgreSQL cannot store."""
    if b"\\u0000" in orjson.dumps(body):
        raise _NotUnderstood


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _NotUnderstood
    return value


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _NotUnderstood
    return value


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise _NotUnderstood
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _NotUnderstood
    return value[:_LONGEST_TEXT]


def _end(value: Any) -> datetime | None:
    """The end of an event; None for a moment so late that it means no end."""
    moment = _time(value)
    return moment if moment.year <= _LAST_YEAR else None


def _time(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(_text(value))
    except ValueError:
        raise _NotUnderstood from None
    if moment.tzinfo is None:
        raise _NotUnderstood
    return moment
