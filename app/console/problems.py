"""Errors as HTML pages: what happened, what to do, and the request id to look for in the log."""

from flask import Blueprint, Response, request
from werkzeug.exceptions import HTTPException

from app import errors
from app.api.problems import describe
from app.console.context import render, words
from app.console.texts import KEYS


def register(blueprint: Blueprint) -> None:
    """Answer every error of the blueprint with a page."""
    for kind in (errors.ProxyError, HTTPException, Exception):
        blueprint.register_error_handler(kind, _page)


def _page(error: Exception) -> Response:
    t = words()
    problem, headers = describe(error, t.language, t.time)
    code = problem.code
    title = t(f"error_{code}" if f"error_{code}" in KEYS else "error_other")
    response = render(
        "error.html",
        status=problem.status,
        title=title,
        problem=problem,
        why=_why(code, problem.status, problem.detail),
    )
    response.headers.update(headers)
    return response


def _why(code: str, status: int, detail: str) -> str:
    """The explanation in the reader's language; `detail` of a 409 and 502 is in it already."""
    if status in (409, 502):
        return detail
    environment = (request.view_args or {}).get("environment", "…")
    key = f"why_{code}" if f"why_{code}" in KEYS else "why_other"
    return words()(key, environment=environment)
