"""Webhooks: the journal's events, posted to receivers in their order, at least once each.

Whoever delivers has a webhook for himself for half a minute, by its row; he notes each event that
is done. If he dies between the post and the note, the same event with the same id is sent again.
No transaction is open while a receiver is asked.
"""

import base64
import os
import threading
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from app import clock, errors, telemetry
from app.account import Account
from app.db.queries import webhooks as queries
from app.ksef.webhook import SECRET_PREFIX, signed
from app.parsers import is_loopback
from app.service import MOST_RECEIVERS, Service
from app.services.events import journal
from app.services.events.journal import Event
from app.services.operators import audit
from app.services.operators.audit import What

MINUTE, HOUR = 60.0, 3600.0
PAUSES = (
    *(5.0, 5 * MINUTE, 30 * MINUTE),
    *(2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR),
)
"""Seconds before each further attempt at an event; after the last one it is parked."""
PURPOSE = "webhook secret"
IDLE = 1.0
"""Seconds between two looks for new events."""
_LEASE = 30.0  # longer than a call of 10 s, with what the database may take
_SECRET_BYTES = 32
_NOT_NOW = frozenset({408, 429})  # of the 4xx, those that say nothing about the event
_GONE = 410

_threads: set[threading.Thread] = set()


def add(account: Account, url: str) -> str:
    """Add a webhook, which gets the events from now on. Returns its secret: it is not shown again.

    Raises OperatorError for a URL that cannot be one, or that has one.
    """
    if sentence := _wrong_url(url):
        raise errors.OperatorError(sentence)
    secret = SECRET_PREFIX + base64.b64encode(os.urandom(_SECRET_BYTES)).decode()
    sealed = account.seal(secret, PURPOSE)
    with account.db.transaction() as connection:
        if queries.add(connection, **account.columns, url=url, secret=sealed) is None:
            raise errors.OperatorError("There is such a webhook: remove it first.")
        audit.note(connection, What.WEBHOOK_ADDED, **account.columns, detail=url)
    return secret


def remove(account: Account, url: str) -> None:
    """Remove a webhook; raises OperatorError where there is none."""
    with account.db.transaction() as connection:
        if not queries.remove(connection, **account.columns, url=url):
            raise _no_such()
        audit.note(connection, What.WEBHOOK_REMOVED, **account.columns, detail=url)


def list_all(service: Service, nip: str | None) -> Sequence[Any]:
    """Webhooks of a company, or of all: company_nip, environment, url, created_at, attempts,
    next_at, answer, answered_at, ended_at, waiting, parked."""
    return service.db.rows(queries.list, nip=nip)


def of_account(account: Account) -> Sequence[Any]:
    """The webhooks of a company in an environment, as in `list_all`."""
    rows = account.db.rows(queries.list, nip=account.company_nip)
    return [row for row in rows if row.environment == account.environment]


def test(service: Service, account: Account, url: str) -> tuple[bool, str]:
    """Post a message of the type `webhook.test`, which is no event: is it taken, and the answer.

    Raises OperatorError where there is no such webhook.
    """
    row = account.db.run(queries.get, **account.columns, url=url)
    if row is None:
        raise _no_such()
    message = Event(
        id=str(uuid.uuid4()),
        type="webhook.test",
        timestamp=journal.utc(clock.now()),
        nip=account.company_nip,
        environment=account.environment,
    )
    status, words = _post(service, url, _secret(account, row.secret), message)
    return _is_good(status), words


def replay(account: Account, url: str, since: datetime) -> int:
    """Deliver the events since a moment again, those that were parked too, beginning at once.

    Also for a webhook that has ended. Returns how many events wait; OperatorError where there is
    no such webhook.
    """
    with account.db.transaction() as connection:
        row = queries.replay(connection, **account.columns, url=url, since=since)
        if row is None:
            raise _no_such()
        detail = f"{url} since {journal.utc(since)}"
        audit.note(connection, What.WEBHOOK_REPLAYED, **account.columns, detail=detail)
    return int(row.waiting)


def deliver_due(service: Service) -> float:
    """Begin to deliver what is due, a thread for each webhook; it does not wait for them.

    Returns the seconds after which to call it again. Raises Unavailable.
    """
    journal.note_expiring(service.db)
    _threads.difference_update([one for one in _threads if not one.is_alive()])
    free = MOST_RECEIVERS - len(_threads)
    holder = str(uuid.uuid4())
    if free > 0:
        for row in service.db.rows(queries.claim, holder=holder, seconds=_LEASE, most=free):
            account = service.account(row.company_nip, row.environment)
            thread = threading.Thread(
                target=_deliver, args=(service, account, row.url, holder), daemon=True
            )
            _threads.add(thread)
            thread.start()
    left = service.db.run(queries.seconds_to_next)
    return IDLE if left is None else min(IDLE, max(left, 0.1))


def deliver_all(service: Service, seconds: float) -> None:
    """Deliver what is due now, of however many webhooks, within so many seconds."""
    until = clock.monotonic() + seconds
    while (pause := deliver_due(service)) < IDLE and clock.monotonic() < until:
        wait(until - clock.monotonic())
        clock.sleep(pause)
    wait(until - clock.monotonic())


def wait(seconds: float) -> bool:
    """Wait until nothing is being delivered by this process; false where that took longer."""
    until = clock.monotonic() + seconds
    for thread in list(_threads):
        thread.join(max(0.0, until - clock.monotonic()))
    return not any(thread.is_alive() for thread in _threads)


def _deliver(service: Service, account: Account, url: str, holder: str) -> None:
    """Deliver one webhook's events until none is left, or one has to wait."""
    where = {**account.columns, "url": url, "holder": holder}
    try:
        while row := account.db.run(queries.next_event, **where, seconds=_LEASE):
            _deliver_one(service, account, row, where)
        account.db.run(queries.release, **where)
    except errors.Unavailable:
        telemetry.warning("a webhook has to wait for the database", **account.log_fields)


def _deliver_one(service: Service, account: Account, row: Any, where: dict[str, str]) -> None:
    """Post an event and note what became of it."""
    secret = _secret(account, row.secret)
    status, answer = _post(service, where["url"], secret, journal.event(row))
    if _is_good(status):
        account.db.run(queries.delivered, **where, number=row.number, answer=answer)
    elif status == _GONE:
        telemetry.warning("a webhook has ended: its receiver is gone", **account.log_fields)
        account.db.run(queries.end, **where, answer=answer)
    elif _is_refused(status) or row.attempts >= len(PAUSES):
        telemetry.warning(
            "an event is parked", **account.log_fields, id=row.id, type=row.type, answer=answer
        )
        account.db.run(queries.park, **where, number=row.number, answer=answer)
    else:
        pause = PAUSES[row.attempts]
        account.db.run(queries.retry_later, **where, answer=answer, seconds=pause)


def _post(service: Service, url: str, secret: str, event: Event) -> tuple[int | None, str]:
    body = msgspec.json.encode(event)
    return service.receivers.post(url, signed(secret, event.id, clock.now(), body), body)


def _is_good(status: int | None) -> bool:
    return status is not None and 200 <= status < 300


def _is_refused(status: int | None) -> bool:
    """Whether the receiver refuses this event, so that sending it again is in vain."""
    return status is not None and 400 <= status < 500 and status not in _NOT_NOW


def _secret(account: Account, sealed: bytes) -> str:
    secret = account.opened(sealed, PURPOSE)
    if secret is None:
        raise errors.Unavailable("A webhook's secret cannot be opened: its key is missing.")
    return secret


def _wrong_url(url: str) -> str | None:
    """Why a URL cannot be a webhook's, in a sentence; None where it can."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0 and url.isascii() and url.isprintable()
    except ValueError:
        usable = False
    if not usable or parts.scheme not in ("http", "https") or " " in url:
        return "The URL is not an http(s) URL."
    if "@" in parts.netloc or parts.fragment:
        return "The URL must have neither a user name nor a fragment."
    if parts.scheme != "https" and not is_loopback(url):
        return "The URL must be https, unless it is on this machine (loopback)."
    return None


def _no_such() -> errors.OperatorError:
    return errors.OperatorError("There is no such webhook.")
