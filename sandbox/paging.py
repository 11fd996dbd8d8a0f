"""Listings in pages: `pageSize` and `x-continuation-token`."""

import base64
import hmac
from dataclasses import dataclass
from typing import Any

import msgspec
from flask import request

from sandbox.access import environment
from sandbox.problems import BadRequest


@dataclass
class Page:
    """Where a listing stands; some faults need to know."""

    this_token: str
    first_item: Any
    next_item: Any


def page_bounds(scope: str, total: int, *, most: int = 1000) -> tuple[int, int]:
    """Where the asked-for page starts and stops; 21405 and 21418 for wrong input."""
    text = request.args.get("pageSize", "10")
    size = int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0
    if not 10 <= size <= most:
        raise BadRequest(21405, f"Parametr 'pageSize' musi być liczbą od 10 do {most}.")
    token = request.headers.get("x-continuation-token")
    start = _offset(scope, token) if token else 0
    return start, min(start + size, total)


def token_at(scope: str, offset: int) -> str:
    """The token of the page of `scope` that starts at `offset`."""
    # KSeF's tokens are Base64 of a JSON array, as those of its database.
    content = [{"token": f"+RID:~{offset}", "sig": _seal(scope, offset)}]
    return base64.b64encode(msgspec.json.encode(content)).decode()


def _offset(scope: str, token: str) -> int:
    try:
        entry = msgspec.json.decode(base64.b64decode(token, validate=True))[0]
        offset = int(entry["token"].removeprefix("+RID:~"))
        if not hmac.compare_digest(str(entry["sig"]).encode(), _seal(scope, offset).encode()):
            raise ValueError(token)
    except (ValueError, msgspec.DecodeError, LookupError, TypeError, AttributeError):
        raise BadRequest(21418) from None
    return offset


def _seal(scope: str, offset: int) -> str:
    return hmac.digest(environment().secret, f"{scope}|{offset}".encode(), "sha256").hex()[:16]
