"""The service as benchmarks run it: durations from `BENCH_TIMING`, and a route to compare with.

The route has the same login and log as any other, and one SELECT: the least that an answer of this
service can cost.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
from flask import Blueprint, Response

from app import create_app, settings
from app.api import basic_auth
from app.context import service

compared = Blueprint("compared", __name__)
compared.before_request(basic_auth.require_role)


@compared.get("/bench/bytes/<name>")
def stored_bytes(name: str) -> Response:
    """The bytes that `bench_bytes` holds under a name."""
    [content] = service().db.rows(_select, name=name)
    return Response(content, mimetype="application/json")


def _select(connection: Any, name: str) -> Iterator[bytes]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT content FROM bench_bytes WHERE name = %s", (name,))
        yield bytes(cursor.fetchone()[0])


chosen = settings.from_environment()
timing = replace(chosen.timing, **msgspec.json.decode(os.environ.get("BENCH_TIMING", "{}")))
app = create_app(replace(chosen, timing=timing))
app.register_blueprint(compared)
