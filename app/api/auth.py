"""/auth/{environment}: the company's session with KSeF."""

from functools import partial

from flask import Response

from app import errors
from app.api import openapi
from app.api.basic_auth import place_of
from app.api.blueprint import Blueprint
from app.api.context import parts, settings
from app.api.responses import json_response, rfc3339
from app.api.schemas import EnvironmentPath, KsefSessionAnswer
from app.services import auth, outages
from app.services.auth import KsefSession
from app.services.parts import Place

blueprint = Blueprint("auth", description="The company's session with KSeF")

_ANSWER = partial(blueprint.answers, KsefSessionAnswer, examples=("ksef-session",))


@blueprint.route("/auth/<environment>", methods=["POST"])
@blueprint.takes(EnvironmentPath)
@_ANSWER("The company is logged in")
@blueprint.problems(errors.NoKsefCredential, *openapi.KSEF_ASKED)
def log_in(path: dict[str, str], _query: dict[str, str], **_url: str) -> Response:
    """Log the company in to KSeF with its stored certificate or KSeF token.

    A live session is given as it is; calls at the same time make one login. Once is enough: the
    session is renewed until it is ended (`DELETE`) or KSeF refuses the credential.
    """
    place = place_of(path)
    outages.refuse_if_simulated(parts(), place)
    return _answer(place, auth.log_in(parts(), place))


@blueprint.route("/auth/<environment>", methods=["GET"])
@blueprint.takes(EnvironmentPath)
@_ANSWER("The company is logged in")
@blueprint.problems(errors.NoActiveKsefSession)
def ksef_session(path: dict[str, str], _query: dict[str, str], **_url: str) -> Response:
    """The company's active KSeF session.

    With what it was begun, since when, until when; the tokens themselves are never shown.
    """
    place = place_of(path)
    return _answer(place, auth.current_session(parts(), place))


@blueprint.route("/auth/<environment>", methods=["DELETE"])
@blueprint.takes(EnvironmentPath)
@blueprint.answers(None, "The session is ended", status=204)
@blueprint.problems(errors.NoActiveKsefSession, *openapi.KSEF_ASKED)
def log_out(path: dict[str, str], _query: dict[str, str], **_url: str) -> Response:
    """Revoke the company's session at KSeF and forget it.

    What is kept is answered all the same: final sessions and UPOs.
    """
    place = place_of(path)
    outages.refuse_if_simulated(parts(), place)
    auth.log_out(parts(), place)
    return Response(status=204)


def _answer(place: Place, session: KsefSession) -> Response:
    zone = settings().response_timezone
    certificate_end = session.certificate_valid_until
    return json_response(
        {
            "environment": place.environment,
            "nip": place.company_nip,
            "method": session.method,
            "authenticatedAt": rfc3339(session.authenticated_at, zone),
            "accessTokenValidUntil": rfc3339(session.access_token_valid_until, zone),
            "refreshTokenValidUntil": rfc3339(session.refresh_token_valid_until, zone),
            "certificateValidUntil": rfc3339(certificate_end, zone) if certificate_end else None,
        }
    )
