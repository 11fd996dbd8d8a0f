"""Long-running work on a company's whole history, which leaves half of KSeF's quota to others.

It can be interrupted and run again: what was done is in the database.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from app import errors
from app.db.queries import upo as queries
from app.ksef.gateway import SESSION_TYPES, SESSIONS
from app.ksef.listing import pages
from app.ksef.wire import SessionPage
from app.services import outages, status, upo
from app.services.active_session import ActiveSession
from app.services.parts import Parts, Place

_SHARE = 0.5  # of our part of the quota
_ROWS = 5000  # looked through by one statement
_PATIENCE = 2 * 3600.0  # seconds to wait for quota: longer than its longest window, an hour

Progress = Callable[[int, int | None], None]
"""Called with how many are done and, if known, how many there are in all."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How many there were, how many succeeded and failed, and why the last one failed."""

    seen: int
    done: int
    failed: int
    reason: str | None = None


def link_history(parts: Parts, place: Place, progress: Progress) -> Summary:
    """Check every session in KSeF's own list of the company's sessions, which links its rows."""
    outages.refuse_if_simulated(parts, place)
    seen = done = failed = 0
    reason = None
    for reference_number in _sessions(parts, place):
        seen += 1
        try:
            status.check_session(parts, place, reference_number, bearer=_bearer(parts, place))
            done += 1
        except errors.ProxyError as error:
            failed, reason = failed + 1, f"{reference_number}: {error.detail}"
        progress(seen, None)
    return Summary(seen, done, failed, reason)


def archive_upos(parts: Parts, place: Place, progress: Progress) -> Summary:
    """Fetch the UPO of every linked invoice that has none in the archive."""
    outages.refuse_if_simulated(parts, place)
    total = sum(1 for _ in _missing_upos(parts, place))
    seen = done = failed = 0
    reason = None
    for name in _missing_upos(parts, place):
        seen += 1
        try:
            upo.fetch(parts, place, name, _bearer(parts, place))
            done += 1
        except errors.ProxyError as error:
            failed, reason = failed + 1, f"{name.ksef_number}: {error.detail}"
        progress(seen, total)
    return Summary(seen, done, failed, reason)


def _sessions(parts: Parts, place: Place) -> Iterator[str]:
    """The reference numbers of all of the company's sessions, as KSeF lists them, newest first."""
    gateway = parts.ksef[place.environment]

    def fetch(session_type: str, token: str | None) -> SessionPage:
        ask = partial(gateway.sessions, session_type=session_type, continuation_token=token)
        return _bearer(parts, place).call(SESSIONS, ask)

    for session_type in SESSION_TYPES:
        for page in pages(partial(fetch, session_type)):
            for session in page.sessions:
                yield session.reference_number


def _missing_upos(parts: Parts, place: Place) -> Iterator[upo.UpoName]:
    """The UPOs to be archived, found by small statements: a company may have millions of rows."""
    after = ""
    while True:
        found = parts.db.run(queries.missing_upos, **place.columns, after=after, batch=_ROWS)
        if found.last is None:
            return
        for ksef_number, session in zip(
            found.ksef_numbers, found.session_reference_numbers, strict=True
        ):
            yield upo.UpoName(session, ksef_number=ksef_number)
        after = found.last


def _bearer(parts: Parts, place: Place) -> ActiveSession:
    """A new one for each call, since the work may take longer than a token is valid."""
    return ActiveSession(parts, place, patience=_PATIENCE, share=_SHARE)
