"""Puts the sandbox's routes together and runs every call through log, faults and quota."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, g, request

from sandbox import (
    access,
    auth,
    batch,
    control_plane,
    documents,
    fault_answers,
    faults,
    latarnia,
    sending,
    sessions,
)
from sandbox.calls import Call
from sandbox.problems import KsefProblem
from sandbox.state import ENVIRONMENTS
from sandbox.world import World, world

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_ENVIRONMENT = f"<any({','.join(ENVIRONMENTS)}):environment>"


def create_app(state: World) -> Flask:
    """The WSGI application over `state`."""
    app = Flask("sandbox", static_folder=None)
    # Ended connections are exceptions that must reach the server.
    app.config["PROPAGATE_EXCEPTIONS"] = True
    app.extensions["sandbox"] = state
    app.url_map.strict_slashes = True
    app.url_map.merge_slashes = False

    ksef = Blueprint("ksef", __name__, url_prefix=f"/{_ENVIRONMENT}/v2")
    storage = Blueprint("storage", __name__, url_prefix=f"/{_ENVIRONMENT}/storage")
    lighthouse = Blueprint("latarnia", __name__, url_prefix=f"/latarnia/{_ENVIRONMENT}")
    auth.register(ksef)
    sending.register(ksef)
    batch.register(ksef, storage)
    sessions.register(ksef)
    documents.register(ksef, storage)
    latarnia.register(lighthouse)

    app.url_value_preprocessor(_find_environment)
    app.before_request(_before)
    app.after_request(_after)
    app.register_error_handler(KsefProblem, lambda problem: problem.response())
    ksef.before_request(access.count_call)
    app.wsgi_app = _forgiving(app.wsgi_app)  # type: ignore[method-assign, assignment]
    for blueprint in (ksef, storage, lighthouse, control_plane.make_blueprint()):
        app.register_blueprint(blueprint)
    return app


def _forgiving(wsgi: WSGIApplication) -> WSGIApplication:
    """KSeF takes a doubled slash after `/v2`; clients in use send it."""

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["PATH_INFO"] = environ["PATH_INFO"].replace("/v2//", "/v2/", 1)
        return wsgi(environ, start_response)

    return call


def _find_environment(_endpoint: str | None, values: dict[str, Any] | None) -> None:
    name = values.pop("environment", None) if values else None
    g.environment = world().environments[name] if name else None


def _service() -> str | None:
    """Which service is called; None for the control plane."""
    first = request.path.split("/", 2)[1]
    if first == "_sandbox":
        return None
    if request.blueprint in ("storage", "latarnia"):
        return request.blueprint
    return "api"


def _before() -> Response | None:
    g.fault = None
    service = _service()
    if service is None:
        return None
    present = world()
    env = g.environment
    known = access.bearer() if env is not None else None
    g.call = Call(
        service=service,
        environment=env.name if env is not None else None,
        method=request.method,
        path=request.path,
        query=request.query_string.decode("latin-1"),
        route=_template(),
        at=_now(),
        nip=known.login.nip if known is not None else None,
        page_size=request.args.get("pageSize"),
        has_continuation_token="x-continuation-token" in request.headers,
        error_format=request.headers.get("X-Error-Format"),
        user_agent=request.headers.get("User-Agent"),
        has_bearer="Authorization" in request.headers,
    )
    present.calls.note(g.call)
    delay = present.settings.latency_seconds + random.uniform(0, present.settings.jitter_seconds)
    if delay > 0:
        present.stopping.wait(delay)
    if env is not None and env.down is not None and service != "latarnia":
        return _down(env.down, present)
    fault = present.faults.take(service, g.call.environment, request.method, request.path)
    if fault is None:
        return None
    g.call.fault = fault.kind
    if fault.kind in faults.INSTEAD:
        return fault_answers.instead(fault, present)
    g.fault = fault
    return None


def _now() -> str:
    return world().clock.now().isoformat(timespec="microseconds")


def _template() -> str | None:
    """The route without the environment, with KSeF's names, such as `/sessions/{reference}`."""
    if request.url_rule is None:
        return None
    rule = request.url_rule.rule.replace(_ENVIRONMENT, "{environment}")
    return rule.replace("<", "{").replace(">", "}")


def _down(mode: str, present: World) -> Response:
    kind = {"503-html": "html-503"}.get(mode, mode)
    fault = present.faults.stand_in(kind)
    g.call.fault = f"down: {mode}"
    return fault_answers.instead(fault, present)


def _after(answer: Response) -> Response:
    warning = request.headers.get("X-Test-System-Warning")
    if warning is not None:
        answer.headers["X-System-Warning"] = warning
    if g.get("fault") is not None:
        answer = fault_answers.afterwards(g.fault, world(), answer)
    if "call" in g:
        g.call.status = answer.status_code
        g.call.answered_at = _now()
        g.call.retry_after = answer.headers.get("Retry-After")
    return answer
