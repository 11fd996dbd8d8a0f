"""GET /events/{environment}"""

import hashlib
from typing import Any

import msgspec
from flask import Response

from app.api import openapi
from app.api.answers import EventsAnswer
from app.api.blueprint import Blueprint, takes
from app.api.responses import conditional
from app.api.schemas import EnvironmentPath, EventsQuery
from app.context import account
from app.services.events import journal

_ASK_AGAIN = 5
"""Seconds until asking again is worthwhile, where the answer holds the newest event."""

blueprint = Blueprint("events", description="What happened, in order")


@blueprint.route("/events/<environment>")
@takes(EnvironmentPath, EventsQuery)
@blueprint.answers(
    EventsAnswer, "The next events, maybe none", *openapi.CACHED, examples=("events",)
)
@blueprint.answers(
    None, "The answer is the one that If-None-Match names", *openapi.CACHED, status=304
)
@blueprint.problems()
def events(path: dict[str, str], query: dict[str, Any]) -> Response:
    """The journal: what happened to the company's sessions, UPOs and credential, and outages.

    Give `next` of an answer as `after` of the next question: no event is missed, and none comes
    twice. `Cache-Control` says in how many seconds to ask again, 0 while there are more. KSeF is
    not asked. Webhooks send the same events.
    """
    page = journal.read(account(path["environment"]), query["after"], query["limit"])
    body = msgspec.json.encode(EventsAnswer(events=page.events, next=page.next))
    response = Response(body, mimetype="application/json")
    response.headers["Cache-Control"] = f"private, max-age={_ASK_AGAIN if page.is_last else 0}"
    response.headers["Vary"] = "Accept, Authorization"
    response.set_etag(hashlib.sha256(body).hexdigest()[:32], weak=True)
    return conditional(response)
