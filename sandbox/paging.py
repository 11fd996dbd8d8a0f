"""Listings in pages: `pageSize` and `x-continuation-token`."""

import base64
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from flask import Response, g, request

from sandbox.access import environment
from sandbox.problems import BadRequest, json_response

T = TypeVar("T")


@dataclass
class Page:
    """Where a listing stands; some faults need to know."""

    this_token: str
    first_item: Any
    next_item: Any


def list_page(
    name: str, scope: str, items: Sequence[T], show: Callable[[T], Any], *, most: int = 1000
) -> Response:
    """The page of `items` that the request asks for, under `name`, each as `show` has it.

    A token is good for its `scope`. 21405 and 21418 for wrong input; `most` is the largest page.
    """
    text = request.args.get("pageSize", "10")
    size = int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0
    if not 10 <= size <= most:
        raise BadRequest(21405, f"Parametr 'pageSize' musi być liczbą od 10 do {most}.")
    asked = request.headers.get("x-continuation-token")
    start = _offset(scope, asked) if asked else 0
    stop = start + size
    more = stop < len(items)
    g.page = Page(
        _token_at(scope, start),
        show(items[0]) if items else None,
        show(items[stop]) if more else None,
    )
    token = _token_at(scope, stop) if more else None
    return json_response({"continuationToken": token, name: list(map(show, items[start:stop]))})


def _token_at(scope: str, offset: int) -> str:
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
