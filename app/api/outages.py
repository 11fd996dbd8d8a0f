"""/outages/{environment}: what is known of an outage of KSeF, and its simulation."""

from functools import wraps
from typing import Any, cast

from flask import Response

from app import errors
from app.api.answers import Outage, OutageAnswer, OutageMessage
from app.api.basic_auth import View, admins_only
from app.api.blueprint import Blueprint, takes
from app.api.responses import json_response, rfc3339
from app.api.schemas import EnvironmentPath, SimulationBody
from app.context import account, caller, service, settings
from app.services import outages
from app.services.outages import Evidence

blueprint = Blueprint("outages", description="Outages of KSeF, real and simulated")


def _never_of_production(view: View) -> View:
    """A view that is SimulationForbidden in production, before its parameters are looked at."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        outages.refuse_production(kwargs["environment"])
        return view(*args, **kwargs)

    return cast(View, guarded)


@blueprint.route("/outages/<environment>", methods=["GET"])
@takes(EnvironmentPath)
@blueprint.answers(
    OutageAnswer, "What is known", examples=("no-outage", "outage", "simulated-outage")
)
@blueprint.problems()
def outage(path: dict[str, str]) -> Response:
    """What is known of an outage, real or simulated, for the caller's company.

    Only what is stored is told: KSeF and Latarnia are asked when a call fails.
    """
    return _answer(path["environment"], outages.current(account(path["environment"])))


@blueprint.route("/outages/<environment>/simulation", methods=["PUT"])
@admins_only
@_never_of_production
@takes(EnvironmentPath, json=SimulationBody)
@blueprint.answers(OutageAnswer, "The simulation holds", examples=("simulated-outage",))
@blueprint.problems(errors.SimulationForbidden)
def simulate_outage(path: dict[str, str], body: dict[str, Any]) -> Response:
    """Simulate an outage for the caller's company (role admin; test and demo only).

    Until it ends, every call that may need KSeF is answered with 409 `outage_simulation`. Calling
    again changes the message and the end.
    """
    simulated = outages.simulate(
        service().db,
        path["environment"],
        company_nip=caller().company_nip,
        message=body["message"],
        ends_at=body["ends_at"],
    )
    return _answer(path["environment"], simulated)


@blueprint.route("/outages/<environment>/simulation", methods=["DELETE"])
@admins_only
@_never_of_production
@takes(EnvironmentPath)
@blueprint.answers(None, "There is no simulation of this company any more", status=204)
@blueprint.problems(errors.SimulationForbidden)
def end_simulation(path: dict[str, str]) -> Response:
    """End the simulation of the caller's company (role admin).

    There need not be one. One for all companies is ended by an operator's command only.
    """
    outages.clear(service().db, path["environment"], company_nip=caller().company_nip)
    return Response(status=204)


def _answer(environment: str, outage: Evidence) -> Response:
    return json_response(OutageAnswer(environment=environment, outage=outage_answer(outage)))


def outage_answer(outage: Evidence) -> Outage:
    """The contract's `outage` object."""
    zone = settings().response_timezone
    messages, announcements = (
        [
            OutageMessage(
                title=event.title,
                text=event.text,
                start=rfc3339(event.start, zone),
                end=rfc3339(event.end, zone),
                category=event.category,
                published_at=rfc3339(event.published, zone),
            )
            for event in events
        ]
        for events in (outage.messages, outage.announcements)
    )
    return Outage(
        established=outage.established,
        since=rfc3339(outage.since, zone),
        consecutive_failures=outage.consecutive_failures,
        source=outage.source,
        messages=messages,
        announcements=announcements,
        duty=outage.duty,
    )
