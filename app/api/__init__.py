"""HTTP in: one file a resource."""

import re
import time
import uuid
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any

from apispec import APISpec
from flask import Flask, Response, g, redirect, request, url_for
from werkzeug.exceptions import NotFound

from app import clock, errors, meters, telemetry
from app.api import (
    auth,
    basic_auth,
    docs,
    events,
    invoices,
    metrics,
    openapi,
    ops,
    outages,
    problems,
    status,
    upo,
)
from app.api.blueprint import LONGEST_BODY, refuse_query
from app.api.responses import json_response
from app.context import settings
from app.services.operators import audit

BLUEPRINTS = (
    status.blueprint,
    upo.blueprint,
    invoices.blueprint,
    events.blueprint,
    auth.blueprint,
    outages.blueprint,
    metrics.blueprint,
    ops.blueprint,
)
# Not refused under overload: they cost no more than a refusal, and matter most just then.
_ALWAYS_ANSWERED = (ops.blueprint.name, metrics.blueprint.name)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


def register(app: Flask) -> None:
    """Give the application its routes, its errors, its OpenAPI document and its log."""
    app.config["MAX_CONTENT_LENGTH"] = LONGEST_BODY * 2**10
    app.url_map.merge_slashes = False  # a doubled slash is a wrong path, not a redirect
    document = openapi.document()
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
        blueprint.describe(app, document)
    app.register_blueprint(docs.blueprint)
    app.add_url_rule("/", "entrance", _entrance)
    app.add_url_rule("/openapi.json", "openapi", lambda: _document(document))
    problems.register(app)
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(_close)


def _entrance() -> Any:
    """Leads people to the console, and tells programs where the contract is."""
    refuse_query()
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        answer = redirect(url_for("console.overview"), 303)
    else:
        places = {name: f"/{name}" for name in ("console", "docs", "status")}
        answer = json_response({"contract": "/openapi.json", **places})
    answer.headers["Vary"] = "Accept"
    return answer


def _document(document: APISpec) -> Response:
    refuse_query()
    return json_response(document.to_dict())


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    telemetry.request_id.set(given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)
    telemetry.request_notes.set(telemetry.RequestNotes())
    g.began = time.perf_counter()
    meters.http_requests_in_progress.inc()
    timing = settings().timing
    g.waited = clock.waited()
    meters.http_waits.observe(g.waited)
    g.time = ExitStack()
    g.time.enter_context(clock.within(timing.request - g.waited))
    if g.waited > timing.queue and request.blueprint not in _ALWAYS_ANSWERED:
        meters.refused.labels("waited").inc()
        raise errors.Busy("Too many requests are waiting.", retry_after=timing.retry_after)
    if _is_another_path():
        raise NotFound


def _is_another_path() -> bool:
    """Whether the path is none of ours, although Flask takes it for one.

    It would begin with one slash for several, and has decoded those that stood for themselves.
    """
    as_sent = request.environ.get("RAW_URI", "").partition("?")[0].lower()
    return "%2f" in as_sent or request.environ["PATH_INFO"].startswith("//")


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = telemetry.request_id.get() or ""
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    # Not no-referrer: browsers would then send forms without the Origin that we check.
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers.setdefault(
        "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"
    )
    _report(response)
    return response


def _close(_error: BaseException | None) -> None:
    if time_given := g.pop("time", None):
        meters.http_requests_in_progress.dec()
        time_given.close()
    audit.actor.set(audit.Actor())
    telemetry.request_id.set(None)  # else this thread's lines of the time between would have it


def _report(response: Response) -> None:
    """Log and count the request: its route, never its path, which names invoices."""
    seconds = time.perf_counter() - g.began
    route = request.url_rule.rule if request.url_rule else None
    notes = telemetry.request_notes.get() or telemetry.RequestNotes()
    source = notes.source if response.status_code < 400 else ""
    meters.request_answered(request.method, route, response.status_code, source, seconds)
    line: dict[str, Any] = {
        "method": request.method,
        "route": route,
        "status": response.status_code,
        "ms": round(seconds * 1000, 1),
        "waitedMs": round(g.waited * 1000, 1),
        "ksefCalls": notes.ksef_calls,
    }
    if source:
        line["source"] = source
    if environment := (request.view_args or {}).get("environment"):
        line["environment"] = environment[:16]
    if caller := g.get("caller"):
        masked = telemetry.masked_nip(caller.company_nip)
        line["company"] = masked
        line["user"] = caller.email.replace(caller.company_nip, masked)
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        line.update(basic_auth.stranger())
    if code := g.get("error_code"):
        line["code"] = code
    telemetry.info("request", **line)
