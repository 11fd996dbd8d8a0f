"""Remembers for a while what KSeF does not know, so that polling a wrong number costs no quota.

A question is a text like `session 20260915-SO-…`; a refusal is KSeF's answer that it does not
have what was asked for (one of our 404s).
"""

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
    """Ask KSeF in the block: a refusal is stored, and a success deletes the stored one."""
    try:
        yield
    except tuple(_KINDS.values()) as error:
        raise _keep(parts, place, question, error) from error
    parts.db.run(queries.forget_refusal, **_where(place, question))


def repeat(parts: Parts, place: Place, question: str) -> None:
    """Raise the stored refusal of this question, if there is one that still holds."""
    row = parts.db.run(queries.get_refusal, **_where(place, question))
    if row is not None:
        raise _error(parts, row.code, row.detail, row.ksef, row.left_for)


def _keep(parts: Parts, place: Place, question: str, error: errors.Missing) -> errors.Missing:
    """Store the refusal; the error to be raised, with the time after which to ask again."""
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
    # No other refusal is kept for so long: it is one of NoUpoEver.
    is_for_good = left_for > parts.timing.refusal_most
    may_come = kind is errors.UpoNotAvailable and not is_for_good
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
