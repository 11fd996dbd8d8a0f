"""HTTP in: one file a resource."""

import re
import time
import uuid
from contextlib import ExitStack
from typing import Any

from flask import Flask, Response, g, request
from flask_smorest import Api

from app import clock, telemetry
from app.api import auth, invoices, metrics, ops, outages, problems, status, upo
from app.api.context import settings
from app.api.responses import json_response
from app.version import VERSION

BLUEPRINTS = (
    status.blueprint,
    upo.blueprint,
    invoices.blueprint,
    auth.blueprint,
    outages.blueprint,
    metrics.blueprint,
    ops.blueprint,
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_DESCRIPTION = (
    "Stands between the ERP systems of a company and KSeF, the Polish national e-invoicing system."
)


class _Api(Api):  # type: ignore[misc]
    """flask-smorest's API; errors are answered, and described, by `problems` alone."""

    DEFAULT_ERROR_RESPONSE_NAME = None

    def _register_error_handlers(self) -> None:
        pass


def register(app: Flask) -> None:
    """Give the application its routes, its errors, its OpenAPI document and its log."""
    app.config |= {
        "API_TITLE": "ksef-proxy",
        "API_VERSION": VERSION,
        "OPENAPI_VERSION": "3.1.0",
        "API_SPEC_OPTIONS": {"info": {"description": _DESCRIPTION}},
        "MAX_CONTENT_LENGTH": 64 * 2**10,
    }
    app.url_map.merge_slashes = False  # a doubled slash is a wrong path, not a redirect
    api = _Api(app)
    for blueprint in BLUEPRINTS:
        api.register_blueprint(blueprint)
    api.spec.components.security_scheme("basic", {"type": "http", "scheme": "basic"})
    app.add_url_rule("/openapi.json", "openapi", lambda: json_response(api.spec.to_dict()))
    problems.register(app)
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(_close)


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    telemetry.request_id.set(given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)
    g.began = time.perf_counter()
    g.time = ExitStack()
    g.time.enter_context(clock.within(settings().timing.request))


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = telemetry.request_id.get() or ""
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault(
        "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"
    )
    telemetry.info("request", **_log_line(response))
    return response


def _close(_error: BaseException | None) -> None:
    if time_given := g.pop("time", None):
        time_given.close()


def _log_line(response: Response) -> dict[str, Any]:
    """What the log says of a request: the route and never the path, which names invoices."""
    line: dict[str, Any] = {
        "method": request.method,
        "route": str(request.url_rule) if request.url_rule else None,
        "status": response.status_code,
        "ms": round((time.perf_counter() - g.began) * 1000, 1),
    }
    if environment := (request.view_args or {}).get("environment"):
        line["environment"] = environment[:16]
    if caller := g.get("caller"):
        line["company"] = telemetry.masked_nip(caller.company_nip)
    if code := g.get("error_code"):
        line["code"] = code
    return line
