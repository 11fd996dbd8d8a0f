"""/status, /livez, /readyz: the state of the service, public and without company data."""

from flask import Response

from app import errors
from app.api.blueprint import Blueprint, takes
from app.api.ops_answers import EnvironmentStates, Health, SchemaState, ServiceStatus
from app.api.responses import json_response
from app.context import service
from app.services import outages
from app.services.operators import keys
from app.services.operators.figures import latest_migrations, pending_migrations
from app.settings import ENVIRONMENTS
from app.version import VERSION, commit

blueprint = Blueprint("ops", description="State of the service", public=True)


@blueprint.route("/status")
@takes()
@blueprint.answers(ServiceStatus, "What is known", examples=("service-status",))
@blueprint.problems()
def service_status() -> Response:
    """The service's version, build and schema, and what is known of each environment.

    `available`: KSeF answered the last call, within the last ten minutes. Nobody is asked.
    """
    state = outages.public_state(service().db, service().timing, ENVIRONMENTS)
    applied, known = latest_migrations(service().db)
    return json_response(
        ServiceStatus(
            version=VERSION,
            commit=commit(),
            schema=SchemaState(applied=applied, known=known),
            environments=EnvironmentStates(**state),
        )
    )


@blueprint.route("/livez")
@takes()
@blueprint.answers(Health, "It is", examples=("well",))
@blueprint.problems()
def alive() -> Response:
    """The process is alive.

    Nothing else is looked at: for whoever restarts processes.
    """
    return json_response(Health(status="ok"))


@blueprint.route("/readyz")
@takes()
@blueprint.answers(Health, "They are", examples=("well",))
@blueprint.problems()
def ready() -> Response:
    """The database is reachable and migrated, and SECRET_KEYS opens the credentials; else 503.

    For whoever sends requests to replicas. KSeF is not asked.
    """
    if missing := pending_migrations(service().db):
        raise errors.Unavailable(f"The database lacks migrations: {', '.join(missing)}.")
    if missing := keys.missing(service().db, service().vault):
        raise errors.Unavailable(
            f"SECRET_KEYS lacks the key {', '.join(missing)}, which seals stored credentials."
        )
    return json_response(Health(status="ok"))
