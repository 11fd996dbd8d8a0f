"""/outages/{environment}: what is known of an outage of KSeF, and its simulation."""

from datetime import datetime
from typing import Any

from flask import Response

from app import clock, errors
from app.api.basic_auth import admins_only, caller, place_of
from app.api.blueprint import Blueprint
from app.api.context import parts
from app.api.responses import json_response
from app.api.schemas import EnvironmentPath, OutageAnswer, SimulationBody
from app.services import outages

blueprint = Blueprint("outages", description="Outages of KSeF, real and simulated")


@blueprint.route("/outages/<environment>", methods=["GET"])
@blueprint.takes(EnvironmentPath)
@blueprint.response(200, OutageAnswer)
@blueprint.problems({})
def show_outage(path: dict[str, str], _query: dict[str, str], **_url: str) -> Response:
    """What is known of an outage, for the caller's company."""
    return _answer(path["environment"], outages.current_outage(parts(), place_of(path)))


@blueprint.route("/outages/<environment>/simulation", methods=["PUT"])
@admins_only
@blueprint.takes(EnvironmentPath)
@blueprint.arguments(SimulationBody, location="json")
@blueprint.response(200, OutageAnswer)
@blueprint.problems({403: "`forbidden`, `simulation_forbidden` (prod)"})
def simulate(
    path: dict[str, str], _query: dict[str, str], body: dict[str, Any], **_url: str
) -> Response:
    """Simulate an outage for the caller's company (admin; test and demo only)."""
    _require_future(body["ends_at"])
    outage = outages.simulate(
        parts(),
        path["environment"],
        company_nip=caller().company_nip,
        message=body["message"],
        ends_at=body["ends_at"],
    )
    return _answer(path["environment"], outage)


@blueprint.route("/outages/<environment>/simulation", methods=["DELETE"])
@admins_only
@blueprint.takes(EnvironmentPath)
@blueprint.response(204)
@blueprint.problems({403: "`forbidden`, `simulation_forbidden` (prod)"})
def end_simulation(path: dict[str, str], _query: dict[str, str], **_url: str) -> Response:
    """End the simulation of the caller's company (admin)."""
    outages.clear(parts(), path["environment"], company_nip=caller().company_nip)
    return Response(status=204)


def _require_future(ends_at: datetime | None) -> None:
    if ends_at is not None and ends_at <= clock.now():
        raise errors.InvalidParameter("Invalid: endsAt.", errors={"endsAt": ["Has passed."]})


def _answer(environment: str, outage: Any) -> Response:
    return json_response({"environment": environment, "outage": outage})
