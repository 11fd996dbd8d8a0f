"""What every page of the console stands on: its reader's language, and how it is drawn."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from flask import Response, current_app, g, render_template, request

from app import clock
from app.api.basic_auth import caller
from app.api.context import parts
from app.console.forms import FormTokens
from app.console.texts import TEXTS
from app.console.words import Words
from app.services import console, wording
from app.services.parts import Place
from app.settings import ENVIRONMENTS

EXTENSION = "ksef_proxy_console"
COOKIE = "lang"
_YEAR = 365 * 24 * 3600
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'"
)
# The most important one first.
SHOWN_ENVIRONMENTS = tuple(reversed(ENVIRONMENTS))


def words() -> Words:
    """The language of this request: chosen by link, then by cookie, then by the browser."""
    for given in (request.args.get("lang"), request.cookies.get(COOKIE)):
        if given in TEXTS:
            return Words(given)
    return Words(request.accept_languages.best_match(list(TEXTS), default="pl"))


def form_tokens() -> FormTokens:
    """The tokens of this application's forms."""
    return cast(FormTokens, current_app.extensions[EXTENSION])


def render(template: str, status: int = 200, **values: Any) -> Response:
    """A page, for the caller where there is one."""
    known = caller() if "caller" in g else None
    t = words()

    def moment(text: str) -> str:
        return t.time(datetime.fromisoformat(text))

    def outage_told(outage: Mapping[str, Any]) -> str:
        return wording.established({**outage, "since": moment(outage["since"])}, t.language)

    body = render_template(
        template,
        t=t,
        moment=moment,
        outage_told=outage_told,
        caller=known,
        company=console.company_name(parts(), known.company_nip) if known and status < 500 else "",
        environments=SHOWN_ENVIRONMENTS,
        token=form_tokens().token(known.email) if known else "",
        now=clock.now(),
        **values,
    )
    return Response(body, status=status, content_type="text/html; charset=utf-8")


def place(environment: str) -> Place:
    """The caller's company in an environment."""
    return Place(caller().company_nip, environment)


def finish(response: Response) -> Response:
    """The headers of every answer of the console; a chosen language is remembered."""
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("Content-Security-Policy", _POLICY)
    # Not no-referrer: a form would then be sent without its origin.
    response.headers["Referrer-Policy"] = "same-origin"
    chosen = request.args.get("lang")
    if chosen in TEXTS:
        response.set_cookie(
            COOKIE,
            chosen,
            max_age=_YEAR,
            path="/console",
            secure=request.is_secure,
            httponly=True,
            samesite="Lax",
        )
    return response
