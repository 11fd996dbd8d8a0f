"""/auth/{environment}: the company's session with KSeF."""

from functools import partial

from flask import Response

from app import errors
from app.account import Account
from app.api import openapi
from app.api.answers import KsefSessionAnswer
from app.api.blueprint import Blueprint, takes
from app.api.responses import json_response, rfc3339
from app.api.schemas import EnvironmentPath
from app.context import account, settings
from app.services import outages
from app.services.login import session
from app.services.login.session import KsefSession

blueprint = Blueprint("auth", description="The company's session with KSeF")

_ANSWER = partial(blueprint.answers, KsefSessionAnswer, examples=("ksef-session",))


@blueprint.route("/auth/<environment>", methods=["POST"])
@takes(EnvironmentPath)
@_ANSWER("The company is logged in")
@blueprint.problems(errors.NoKsefCredential, *openapi.KSEF_ASKED)
def log_in(path: dict[str, str]) -> Response:
    """Log the company in to KSeF with its stored certificate or KSeF token.

    A live session is given as it is; calls at the same time make one login. Once is enough: the
    session is renewed until it is ended (`DELETE`) or KSeF refuses the credential.
    """
    company = account(path["environment"])
    outages.refuse_if_simulated(company)
    return _answer(company, session.log_in(company))


@blueprint.route("/auth/<environment>", methods=["GET"])
@takes(EnvironmentPath)
@_ANSWER("The company is logged in")
@blueprint.problems(errors.NoActiveKsefSession)
def ksef_session(path: dict[str, str]) -> Response:
    """The company's active KSeF session.

    With what it was begun, since when, until when; the tokens themselves are never shown.
    """
    company = account(path["environment"])
    return _answer(company, session.current_session(company))


@blueprint.route("/auth/<environment>", methods=["DELETE"])
@takes(EnvironmentPath)
@blueprint.answers(None, "The session is ended", status=204)
@blueprint.problems(errors.NoActiveKsefSession, *openapi.KSEF_ASKED)
def log_out(path: dict[str, str]) -> Response:
    """Revoke the company's session at KSeF and forget it.

    What is kept is answered all the same: final sessions and UPOs.
    """
    company = account(path["environment"])
    outages.refuse_if_simulated(company)
    session.log_out(company)
    return Response(status=204)


def _answer(company: Account, session: KsefSession) -> Response:
    zone = settings().response_timezone
    return json_response(
        KsefSessionAnswer(
            environment=company.environment,
            nip=company.company_nip,
            method=session.method,
            authenticated_at=rfc3339(session.authenticated_at, zone),
            access_token_valid_until=rfc3339(session.access_token_valid_until, zone),
            refresh_token_valid_until=rfc3339(session.refresh_token_valid_until, zone),
            certificate_valid_until=rfc3339(session.certificate_valid_until, zone),
        )
    )
