"""What all pages of the console share: the reader's language, rendering and response headers."""

from typing import Any, cast

from flask import Response, current_app, g, render_template, request

from app import clock
from app.api import wording
from app.console.forms import FormTokens
from app.console.texts import TEXTS
from app.console.words import Words
from app.context import caller, service
from app.services.operators import overview
from app.services.outages import Evidence
from app.settings import ENVIRONMENTS

EXTENSION = "ksef_proxy_console"
COOKIE = "lang"
_YEAR = 365 * 24 * 3600
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'"
)
# Production first.
SHOWN_ENVIRONMENTS = tuple(reversed(ENVIRONMENTS))


def words() -> Words:
    """The texts in the language of this request: of `?lang=`, else the cookie, else the browser."""
    for given in (request.args.get("lang"), request.cookies.get(COOKIE)):
        if given in TEXTS:
            return Words(given)
    return Words(request.accept_languages.best_match(list(TEXTS), default="pl"))


def form_tokens() -> FormTokens:
    """Makes and checks the tokens of this application's forms."""
    return cast(FormTokens, current_app.extensions[EXTENSION])


def render(template: str, status: int = 200, **values: Any) -> Response:
    """A page from a template, for the caller if there is one; `values` go to the template."""
    known = caller() if "caller" in g else None
    t = words()

    def outage_told(outage: Evidence) -> str:
        return wording.established(outage, t.time(outage.since) if outage.since else "", t.language)

    body = render_template(
        template,
        t=t,
        outage_told=outage_told,
        caller=known,
        company=overview.company_name(service().db, known.company_nip)
        if known and status < 500
        else "",
        environments=SHOWN_ENVIRONMENTS,
        token=form_tokens().token(known.email) if known else "",
        now=clock.now(),
        **values,
    )
    return Response(body, status=status, content_type="text/html; charset=utf-8")


def finish(response: Response) -> Response:
    """Add the headers of all console answers, and the cookie for a language that was chosen."""
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("Content-Security-Policy", _POLICY)
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
