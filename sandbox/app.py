"""Puts the sandbox's routes together and runs every call through log, faults and quota."""

import random
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from sandbox import (
    access,
    auth,
    batch,
    blueprints,
    control_plane,
    documents,
    fault_answers,
    latarnia,
    sending,
    sessions,
)
from sandbox.faults import Fault
from sandbox.orders import Call
from sandbox.problems import KsefProblem, json_response
from sandbox.world import World, world

# These modules add their routes to the blueprints.
_ROUTES = (auth, batch, control_plane, documents, latarnia, sending, sessions)


def create_app(state: World) -> Flask:
    """The WSGI application over `state`."""
    app = Flask("sandbox", static_folder=None)
    # Ended connections are exceptions that must reach the server.
    app.config["PROPAGATE_EXCEPTIONS"] = True
    app.extensions["sandbox"] = state
    app.url_map.strict_slashes = True
    app.url_map.merge_slashes = False
    app.url_value_preprocessor(_find_environment)
    app.before_request(_before)
    app.after_request(_after)
    app.register_error_handler(KsefProblem, lambda problem: problem.response())
    app.register_error_handler(HTTPException, _elsewhere)
    app.wsgi_app = _forgiving(app.wsgi_app)  # type: ignore[method-assign]
    for blueprint in blueprints.ALL:
        app.register_blueprint(blueprint)
    return app


def _forgiving(wsgi: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """KSeF takes a doubled slash after `/v2`; clients in use send it."""

    def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["PATH_INFO"] = environ["PATH_INFO"].replace("/v2//", "/v2/", 1)
        return wsgi(environ, start_response)

    return call


def _elsewhere(error: HTTPException) -> Response:
    """Where the sandbox has no such address, or another method for it."""
    said = f"{request.method} {request.path}: {error.name}. docs/sandbox.md lists what there is."
    answer = json_response({"error": said}, error.code or 500)
    answer.headers.extend({name: value for name, value in error.get_headers() if name == "Allow"})
    return answer


def _find_environment(_endpoint: str | None, values: dict[str, Any] | None) -> None:
    name = values.pop("environment", None) if values else None
    g.environment = world().environments[name] if name else None


def _before() -> Response | None:
    g.fault = None
    if request.path.split("/", 2)[1] == "_sandbox":
        return None
    present = world()
    env = g.environment
    service = request.blueprint if request.blueprint in ("storage", "latarnia") else "api"
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
    present.calls.append(g.call)
    delay = present.settings.latency_seconds + random.uniform(0, present.settings.jitter_seconds)
    if delay > 0:
        present.stopping.wait(delay)
    if env is not None and env.down is not None and service != "latarnia":
        kind = "html-503" if env.down == "503-html" else env.down
        fault: Fault | None = Fault(fault={"kind": kind, "seconds": 3600})
        g.call.fault = f"down: {env.down}"
    else:
        fault = present.faults.take(service, g.call.environment, request.method, request.path)
        g.call.fault = fault and fault.kind
    if fault is not None and fault.kind in fault_answers.INSTEAD:
        return fault_answers.instead(fault)
    g.fault = fault
    return None


def _now() -> str:
    return world().clock.now().isoformat(timespec="microseconds")


def _template() -> str | None:
    """The route without the environment, with KSeF's names, such as `/sessions/{reference}`."""
    if request.url_rule is None:
        return None
    rule = request.url_rule.rule.replace(blueprints.ENVIRONMENT, "{environment}")
    return rule.replace("<", "{").replace(">", "}")


def _after(answer: Response) -> Response:
    warning = request.headers.get("X-Test-System-Warning")
    if warning is not None:
        answer.headers["X-System-Warning"] = warning
    if g.get("fault") is not None:
        fault_answers.afterwards(g.fault, answer)
    if "call" in g:
        g.call.status = answer.status_code
        g.call.answered_at = _now()
        g.call.retry_after = answer.headers.get("Retry-After")
    return answer
