"""The one place where errors become HTTP: `application/problem+json` (RFC 9457)."""

from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from app import errors, telemetry
from app.api import wording
from app.api.answers import KsefSaid, Problem
from app.api.basic_auth import CHALLENGE
from app.api.openapi import PROBLEM
from app.api.outages import outage_answer
from app.api.responses import json_response, rfc3339
from app.context import service, settings
from app.services import outages
from app.services.outages import Evidence

Told = tuple[Problem, dict[str, str]]


def register(app: Flask) -> None:
    """Answer every error of the application with `application/problem+json`."""
    for kind in (errors.ProxyError, HTTPException, Exception):
        app.register_error_handler(kind, _answer)


def _answer(error: Exception) -> Response:
    zone = settings().response_timezone
    body, headers = describe(error, settings().message_language, lambda at: rfc3339(at, zone))
    return json_response(body, status=body.status, headers=headers, mimetype=PROBLEM)


def describe(error: Exception, language: str, time: wording.Time) -> Told:
    """The body of the problem for an error, and the headers that go with it.

    `language` is that of `detail`, en or pl; `time` writes its times.
    """
    if isinstance(error, HTTPException):
        status = HTTPStatus(error.code or 500)
        if status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
            return _http_exception(error, status, language)
        error = errors.InvalidParameter(status.description)  # one 400 for any bad body
    elif not isinstance(error, errors.ProxyError):
        telemetry.exception("internal error")
        error = errors.ProxyError("The service failed. Its log has the details under this id.")
    return _proxy_error(error, language, time)


def _proxy_error(error: errors.ProxyError, language: str, time: wording.Time) -> Told:
    extra: dict[str, Any] = {}
    kind, detail, outage = type(error), error.detail, error.outage
    if isinstance(error, errors.KsefFailure | errors.OutageSimulation):
        environment = (request.view_args or {}).get("environment", "")
        outage = outage or _evidence(environment)
        if isinstance(error, errors.KsefFailure) and outage.established and error.is_sign_of_outage:
            kind = errors.KsefOutage
        detail = wording.told(error, kind, outage, environment, language, time)
    elif language == "pl":
        detail = wording.in_polish(error)
    if error.errors:
        extra["errors"] = {name: list(said) for name, said in error.errors.items()}
    if error.ksef:
        extra["ksef"] = KsefSaid(
            http_status=error.ksef.http_status,
            code=error.ksef.code,
            description=error.ksef.description,
            details=list(error.ksef.details),
            reason_code=error.ksef.reason,
            trace_id=error.ksef.trace_id,
        )
    if outage:
        extra["outage"] = outage_answer(outage)
    headers = {}
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = CHALLENGE
    retry_after = error.retry_after
    if retry_after is None and isinstance(error, errors.Unavailable):
        retry_after = settings().timing.retry_after
    if retry_after is not None:
        extra["retry_after"] = retry_after
        headers["Retry-After"] = str(retry_after)
    return _problem(kind.status, kind.code, kind.title, detail, extra, headers)


def _evidence(environment: str) -> Evidence:
    """What is known of an outage; nothing if the database cannot be asked."""
    try:
        return outages.evidence(service().db, service().timing, environment)
    except errors.Unavailable:
        return Evidence()


def _http_exception(error: HTTPException, status: HTTPStatus, language: str) -> Told:
    """Flask's own errors: an unknown route, a wrong method."""
    title, detail = status.phrase, status.description or status.phrase
    code = title.lower().replace(" ", "_")
    if language == "pl":
        detail = wording.polish(code, detail)
    headers = {name: value for name, value in error.get_headers() if name == "Allow"}
    return _problem(status, code, title, detail, {}, headers)


def _problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    extra: dict[str, Any],
    headers: dict[str, str],
) -> Told:
    body = Problem(
        type=f"urn:ksef-proxy:problem:{code}",
        title=title,
        status=int(status),
        detail=detail,
        code=code,
        request_id=telemetry.request_id.get() or "",
        **extra,
    )
    g.error_code = code  # for the request's line in the log
    return body, headers
