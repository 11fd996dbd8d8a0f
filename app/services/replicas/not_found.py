"""Remembers for a while what KSeF does not know, so that polling a wrong number costs no quota.

A question is a text like `session 20260915-SO-…`; the answer that is remembered is one of our 404s.
"""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date, datetime
from typing import Any

import msgspec

from app import errors
from app.account import Account
from app.db.queries import not_found as queries

_KINDS: dict[str, type[errors.Missing]] = {
    kind.code: kind
    for kind in (errors.SessionNotFound, errors.UpoNotAvailable, errors.InvoiceNotFound)
}


@contextmanager
def remembered(account: Account, question: str) -> Iterator[None]:
    """Ask KSeF in the block: a 404 is stored. Whoever stores an answer deletes it again."""
    try:
        yield
    except tuple(_KINDS.values()) as error:
        raise _keep(account, question, error) from error


def repeat(account: Account, question: str) -> None:
    """Raise the stored 404 of this question, if there is one that still holds."""
    row = account.db.run(queries.get, **account.columns, question=question)
    if row is not None:
        raise _error(row.code, row.detail, row.ksef, _may_come(account, row), row.left_for)


def _keep(account: Account, question: str, error: errors.Missing) -> errors.Missing:
    """Store the 404; the error to be raised, with the time after which to ask again."""
    ksef = dataclasses.asdict(error.ksef) if error.ksef else {}
    timing = account.timing
    least, most = timing.refusal_least, timing.refusal_most
    may_come = None if isinstance(error, errors.SessionNotFound) else False
    if isinstance(error, errors.UpoNotAvailable):
        may_come = not isinstance(error, errors.NoUpoEver)
    if isinstance(error, errors.NoUpoEver):
        least = most = timing.refusal_lasting
    kept = account.db.run(
        queries.put,
        **account.columns,
        question=question,
        code=error.code,
        detail=error.detail,
        ksef=msgspec.json.encode(ksef).decode(),
        may_come=may_come,
        dated=_date_in(question),
        least=least,
        most=most,
    )
    return _error(error.code, error.detail, ksef, kept.may_come, kept.left_for)


def _date_in(question: str) -> date | None:
    """The date with which the reference number in a question begins, if it is one."""
    for word in question.split():
        with suppress(ValueError):
            return datetime.strptime(word[:8], "%Y%m%d").date()  # noqa: DTZ007 - Poland's date
    return None


def _may_come(account: Account, row: Any) -> bool:
    """Whether asking again may help. Version 0.1.0 kept for so long what will never come."""
    if row.may_come is None:
        short: bool = row.left_for <= account.timing.refusal_most
        return short and row.code == errors.UpoNotAvailable.code
    return bool(row.may_come)


def _error(
    code: str, detail: str, ksef: dict[str, Any], may_come: bool, left_for: float
) -> errors.Missing:
    return _KINDS[code](
        detail,
        ksef=errors.KsefAnswer(**ksef) if ksef else None,
        retry_after=max(1, math.ceil(left_for)) if may_come else None,
    )
