"""JSON answers and their times."""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, overload
from zoneinfo import ZoneInfo

import msgspec
from flask import Response, request


def json_response(
    body: Any,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    mimetype: str = "application/json",
) -> Response:
    """An answer with this body as JSON: a Struct of `answers`, or plain values."""
    return Response(msgspec.json.encode(body), status=status, mimetype=mimetype, headers=headers)


def is_known(tag: str) -> bool:
    """Whether If-None-Match names this ETag, so that the answer needs no body."""
    return request.if_none_match.contains_weak(tag)


def conditional(response: Response) -> Response:
    """The response, or a 304 where If-None-Match names its ETag.

    No other condition is obeyed: answers are not changed by callers, so that If-Match has no sense
    here, and they are given whole.
    """
    known = request.headers.get("If-None-Match")
    if known is None:
        return response
    asked = {"REQUEST_METHOD": request.method, "HTTP_IF_NONE_MATCH": known}
    return response.make_conditional(asked)  # type: ignore[return-value]


@overload
def local_time(moment: datetime, zone: ZoneInfo) -> str: ...


@overload
def local_time(moment: datetime | None, zone: ZoneInfo) -> str | None: ...


def local_time(moment: datetime | None, zone: ZoneInfo) -> str | None:
    """A time like `2026-01-31 12:00:00` in the zone, fractions cut: the form of KSeF's dates."""
    return _second(moment.timestamp() // 1, zone)[0] if moment else None


@overload
def rfc3339(moment: datetime, zone: ZoneInfo) -> str: ...


@overload
def rfc3339(moment: datetime | None, zone: ZoneInfo) -> str | None: ...


def rfc3339(moment: datetime | None, zone: ZoneInfo) -> str | None:
    """A time as RFC 3339 with offset, in the zone, fractions cut: the form of all other times."""
    return _second(moment.timestamp() // 1, zone)[1] if moment else None


# Of 10,000 invoices many have the same second, and converting one takes 1.5 µs.
@lru_cache(maxsize=10_000)
def _second(second: float, zone: ZoneInfo) -> tuple[str, str]:
    """A second of Unix time in both forms."""
    local = datetime.fromtimestamp(second, zone)
    return local.isoformat(" ")[:19], local.isoformat()
