"""/status, /livez, /readyz: the state of the service, public and without company data."""

from flask import Response

from app import errors
from app.api.blueprint import Blueprint
from app.api.context import parts
from app.api.responses import json_response
from app.api.schemas import Health, ServiceStatus
from app.services import health, outages
from app.settings import ENVIRONMENTS
from app.version import VERSION

blueprint = Blueprint("ops", description="State of the service", public=True)


@blueprint.route("/status")
@blueprint.takes()
@blueprint.answers(ServiceStatus, "What is known", examples=("service-status",))
@blueprint.problems()
def service_status(_query: dict[str, str]) -> Response:
    """The service's version, and what is known of each environment.

    `available`: KSeF answered the last call, within the last ten minutes. Nobody is asked.
    """
    state = outages.public_state(parts(), ENVIRONMENTS)
    return json_response({"version": VERSION, "environments": state})


@blueprint.route("/livez")
@blueprint.takes()
@blueprint.answers(Health, "It is", examples=("well",))
@blueprint.problems()
def alive(_query: dict[str, str]) -> Response:
    """The process is alive.

    Nothing else is looked at: for whoever restarts processes.
    """
    return json_response({"status": "ok"})


@blueprint.route("/readyz")
@blueprint.takes()
@blueprint.answers(Health, "They are", examples=("well",))
@blueprint.problems()
def ready(_query: dict[str, str]) -> Response:
    """The database is reachable and migrated; else 503.

    For whoever sends requests to replicas. KSeF is not asked.
    """
    if missing := health.pending_migrations(parts()):
        raise errors.Unavailable(f"The database lacks migrations: {', '.join(missing)}.")
    return json_response({"status": "ok"})
