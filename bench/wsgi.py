"""The service as benchmarks run it: durations from `BENCH_TIMING`, one route to compare with.

The route has the same authentication and log as any other, and one SELECT.
"""

import os
from dataclasses import replace

import orjson
from flask import Blueprint, Response

from app import create_app, settings
from app.api import basic_auth
from app.api.context import parts
from app.api.responses import json_response
from app.services import users

compared = Blueprint("compared", __name__)
compared.before_request(basic_auth.require_role)


@compared.get("/bench/select")
def select() -> Response:
    """The least that any answer of this service can cost."""
    users.require_company(parts(), basic_auth.caller().company_nip)
    return json_response({"nip": basic_auth.caller().company_nip})


chosen = settings.from_environment()
timing = replace(chosen.timing, **orjson.loads(os.environ.get("BENCH_TIMING", "{}")))
app = create_app(replace(chosen, timing=timing))
app.register_blueprint(compared)
