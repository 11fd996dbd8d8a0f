"""What KSeF does not know is remembered for a while: polling a wrong number costs no quota."""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from app import errors
from app.db.queries import kept as queries
from app.services.parts import Parts, Place

_KINDS: dict[str, type[errors.Missing]] = {
    kind.code: kind
    for kind in (errors.SessionNotFound, errors.UpoNotAvailable, errors.InvoiceNotFound)
}


@contextmanager
def remembered(parts: Parts, place: Place, question: str) -> Iterator[None]:
    """Ask KSeF inside: what it does not know is kept, what it knows now is forgotten."""
    try:
        yield
    except tuple(_KINDS.values()) as error:
        raise _keep(parts, place, question, error) from error
    parts.db.run(queries.forget_refusal, **_where(place, question))


def repeat(parts: Parts, place: Place, question: str) -> None:
    """Refuse again what KSeF refused a moment ago."""
    row = parts.db.run(queries.get_refusal, **_where(place, question))
    if row is not None:
        raise _error(parts, row.code, row.detail, row.ksef, row.left_for)


def _keep(parts: Parts, place: Place, question: str, error: errors.Missing) -> errors.Missing:
    """The error to be raised, with the time after which asking again is worth it."""
    ksef = dataclasses.asdict(error.ksef) if error.ksef else {}
    timing = parts.timing
    least, most = timing.refusal_least, timing.refusal_most
    if isinstance(error, errors.NoUpoEver):
        least = most = timing.refusal_lasting
    left_for = parts.db.run(
        queries.put_refusal,
        **_where(place, question),
        code=error.code,
        detail=error.detail,
        ksef=orjson.dumps(ksef).decode(),
        least=least,
        most=most,
    )
    return _error(parts, error.code, error.detail, ksef, left_for)


def _error(
    parts: Parts, code: str, detail: str, ksef: dict[str, Any], left_for: float
) -> errors.Missing:
    kind = _KINDS[code]
    # What is kept for longer than any that may change is for good.
    may_come = kind is errors.UpoNotAvailable and left_for <= parts.timing.refusal_most
    return kind(
        detail,
        ksef=errors.KsefAnswer(**ksef) if ksef else None,
        retry_after=max(1, math.ceil(left_for)) if may_come else None,
    )


def _where(place: Place, question: str) -> dict[str, str]:
    return {
        **place.columns,
        "question": question,
    }
