"""What `/openapi.json` says besides the schemas: headers, examples, what to do about errors."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow.fields import Field

from app import errors
from app.api import answers, examples, ops_answers, upo_answers
from app.version import VERSION

PROBLEM = "application/problem+json"
DESCRIPTION = """\
Stands between the ERP systems of a company and KSeF, the Polish national e-invoicing system. It
answers what became of a session that was sent to KSeF, links the company's own invoice rows to it,
and gives the official receipt (UPO) of an invoice.

**Who asks.** HTTP Basic, `email:password`, over TLS. A user belongs to one company (NIP) and sees
nothing of any other; the NIP is never part of an address.

**Polling.** Ask as often as you like: what is final is kept, and KSeF's quota is guarded here.
While a session moves, `nextCheckAfter` says when asking again is worth it; with `If-None-Match` an
unchanged answer is a 304.

**Times.** `dateCreated`, `dateUpdated` and `acquisitionDate` are `YYYY-MM-DD HH:MM:SS` in the
response time zone (Europe/Warsaw unless configured); all others are RFC 3339 with an offset.

**Errors.** All are `application/problem+json` (RFC 9457). Switch on `code`; `detail` is for a
person. Repeat after `retryAfter` seconds where it is given. On a 409 `ksef_outage` issue invoices
offline, and `outage.duty` tells by when they must be sent; on a 502 wait and ask again.
"""

ADVICE: dict[type[errors.ProxyError], str] = {
    errors.InvalidParameter: (
        "A parameter or the body is wrong; `errors` says what, by name. Nothing was sent to KSeF."
        " Correct the request; repeating it will not help."
    ),
    errors.Unauthorized: (
        "The user name or password is missing or wrong. With `retryAfter` there were too many"
        " failed logins: for so long no further password is looked at."
    ),
    errors.Forbidden: "The user's role is not enough for this call, or a browser sent it for"
    " another site's page.",
    errors.SimulationForbidden: "An outage of `prod` cannot be simulated.",
    errors.NoActiveKsefSession: (
        "The company is not logged in to KSeF in this environment, or KSeF refuses its credential"
        " (then `ksef.code` says why). Log in with `POST /auth/{environment}`."
    ),
    errors.NoKsefCredential: (
        "Neither a certificate nor a KSeF token is stored for the company: an operator has to"
        " store one."
    ),
    errors.SessionNotFound: "KSeF knows no such session of this company. Check the number; with "
    "`retryAfter` it is of today or yesterday: ask again.",
    errors.UpoNotAvailable: (
        "KSeF has no UPO for these numbers. With `retryAfter` it may still come; without, check"
        " the numbers and the status of the session."
    ),
    errors.InvoiceNotFound: (
        "KSeF has no such UPO, and the finished session holds no accepted invoice with that number."
    ),
    errors.OutageSimulation: (
        "An outage is being rehearsed; KSeF was not asked. `outage` says since when and why."
    ),
    errors.KsefOutage: (
        "KSeF is down, and that is established. Issue invoices offline; `outage.duty` says by when"
        " they must be sent."
    ),
    errors.KsefError: "KSeF refused or failed; `ksef` tells what it said.",
    errors.KsefRateLimited: (
        "KSeF's quota of the company is used up. Ask again after `retryAfter`, not before."
    ),
    errors.KsefUnreachable: "There is no connection to KSeF, or no whole answer in time.",
    errors.KsefInvalidResponse: "KSeF's answer breaks its own contract.",
    errors.UpoIntegrity: (
        "The document that KSeF sent is not the one asked for, or was damaged on its way, or its"
        " signature is broken. It was not kept."
    ),
    errors.Unavailable: (
        "The service itself cannot answer now: its database, or overload. Repeat after"
        " `retryAfter`."
    ),
    errors.ProxyError: "A fault of the service. Its log has the `requestId`.",
}
ELSEWHERE = ("not_found", "method_not_allowed")  # for requests that match no operation
CODES = [*(kind.code for kind in ADVICE), *ELSEWHERE]
_MAY_TELL_WHEN_TO_REPEAT = (
    errors.SessionNotFound,
    errors.Unauthorized,
    errors.UpoNotAvailable,
    errors.KsefOutage,
    errors.KsefFailure,
    errors.Unavailable,
)

KSEF_ASKED = (  # the errors of a call that asks KSeF
    errors.OutageSimulation,
    errors.KsefOutage,
    errors.KsefError,
    errors.KsefRateLimited,
    errors.KsefUnreachable,
    errors.KsefInvalidResponse,
)

ALWAYS = ("X-Request-ID", "Cache-Control")
CACHED = ("ETag", "Vary")
_SECONDS = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {
        "description": "The request's id in the log: the one that was sent, else a new one",
        "required": True,
        "schema": _TEXT,
    },
    "Cache-Control": {
        "description": "`no-store`; `private, no-cache`: keep it, and ask with If-None-Match; or,"
        " of a session that is not final, `private, max-age=` and `nextCheckAfter`",
        "required": True,
        "schema": _TEXT,
    },
    "ETag": {
        "description": "For `If-None-Match`. Of a document: its SHA-256 (in JSON: and `-json`,"
        " after any `signature.state` but valid). Of a collective UPO in JSON or a ZIP: a hash of"
        " those of its pages",
        "required": True,
        "schema": _TEXT,
    },
    "Vary": {"required": True, "schema": _TEXT},
    "Age": {
        "description": "Seconds since KSeF was asked (`checkedAt`)",
        "required": True,
        "schema": _SECONDS,
    },
    "Content-Disposition": {
        "description": "`attachment` with a file name, where the body is the document itself",
        "schema": _TEXT,
    },
    "UPO-Signature": {
        "description": "`signature.state`, where the body is the document itself; of a ZIP the"
        " least certain of its documents",
        "schema": {"$ref": "#/components/schemas/SignatureState"},
    },
    "Retry-After": {
        "description": "Seconds until asking again is worth it; `retryAfter` in the body",
        "schema": _SECONDS,
    },
    "WWW-Authenticate": {"description": "Basic", "required": True, "schema": _TEXT},
}
IF_NONE_MATCH = "If-None-Match"
_PARAMETERS: dict[str, dict[str, Any]] = {
    IF_NONE_MATCH: {
        "description": "An earlier answer's `ETag`: the answer is a 304 if nothing has changed",
        "schema": _TEXT,
    },
    "X-Request-ID": {
        "description": "An id of your own for the log: up to 64 of A-Z, a-z, 0-9, `.`, `_`, `-`;"
        " for anything else a new one is made",
        "schema": _TEXT,
    },
}


def document() -> APISpec:
    """The document, with the components to which operations refer by name."""
    plugin = MarshmallowPlugin()
    spec = APISpec(
        "ksef-proxy",
        VERSION,
        "3.1.0",
        plugins=[plugin],
        info={"description": DESCRIPTION},
        servers=[{"url": "/"}],
    )
    converter: Any = plugin.converter
    converter.add_parameter_attribute_function(_example)
    converter.add_attribute_function(_named_choice)
    spec.components.security_scheme(
        "basic",
        {"type": "http", "scheme": "basic", "description": "E-mail address and password"},
    )
    for name, schema in _schemas().items():
        spec.components.schema(name, schema)
    spec.components.schemas["ProblemCode"]["enum"] = CODES
    for name, header in HEADERS.items():
        spec.components.header(name, header)
    for name, parameter in _PARAMETERS.items():
        spec.components.parameter(name, "header", {"name": name, **parameter})
    for name, value in examples.ANSWERS.items():
        spec.components.example(name, {"value": value})
    for kind, advice in ADVICE.items():
        spec.components.example(kind.code, {"summary": kind.title, "value": _problem(kind, advice)})
    return spec


def _schemas() -> dict[str, Any]:
    """The JSON Schemas of all answers, by name, for the components of an OpenAPI document."""
    _, components = msgspec.json.schema_components(
        (*answers.ALL, *ops_answers.ALL, *upo_answers.ALL),
        ref_template="#/components/schemas/{name}",
    )
    choices: dict[str, Any] = {}
    found = {name: _hoisted(schema, choices) for name, schema in components.items()}
    return {**choices, **found}


def _hoisted(schema: Any, choices: dict[str, Any]) -> Any:
    """The schema with every titled choice as a component of its own, put into `choices`.

    So generated clients have one type for it.
    """
    if isinstance(schema, list):
        return [_hoisted(one, choices) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "title" in schema and schema.get("type") == "string":
        named = {key: schema[key] for key in ("type", "enum") if key in schema}
        choices[schema["title"]] = named
        about = {key: schema[key] for key in ("description",) if key in schema}
        return {"$ref": f"#/components/schemas/{schema['title']}", **about}
    return {key: _hoisted(value, choices) for key, value in schema.items()}


def _example(_converter: Any, field: Field[Any], **_: Any) -> dict[str, Any]:
    """The field's first example, under the name from which Swagger UI fills in its forms."""
    return {"example": given[0]} if (given := field.metadata.get("examples")) else {}


def _named_choice(_converter: Any, _field: Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
    """A choice with a title is that of an answer: generated clients have one type for both."""
    if "title" not in ret or "enum" not in ret:
        return {}
    about: dict[str, Any] = {
        key: ret[key] for key in ("description", "default", "examples") if key in ret
    }
    reference = {"$ref": f"#/components/schemas/{ret['title']}"}
    ret.clear()
    return {**about, **reference}


def problems(kinds: Iterable[type[errors.ProxyError]]) -> dict[int, dict[str, Any]]:
    """The responses of these errors by HTTP status."""
    by_status: dict[int, list[type[errors.ProxyError]]] = defaultdict(list)
    for kind in (kind for kind in ADVICE if kind in set(kinds)):
        by_status[kind.status].append(kind)
    return {status: _answer(status, alike) for status, alike in sorted(by_status.items())}


def _answer(status: int, kinds: list[type[errors.ProxyError]]) -> dict[str, Any]:
    headers = [*ALWAYS]
    if status == errors.Unauthorized.status:
        headers.append("WWW-Authenticate")
    if any(issubclass(kind, _MAY_TELL_WHEN_TO_REPEAT) for kind in kinds):
        headers.append("Retry-After")
    codes = [kind.code for kind in kinds]
    # Beside the reference, as OpenAPI 3.1 allows, so that generated clients have one Problem.
    schema = {
        "$ref": "#/components/schemas/Problem",
        "properties": {"status": {"const": status}, "code": {"enum": codes}},
    }
    advice = "\n".join(f"- `{kind.code}`: {ADVICE[kind]}" for kind in kinds)
    return response(advice, headers, {PROBLEM: content(schema, codes)})


def response(description: str, headers: Iterable[str], contents: dict[str, Any]) -> dict[str, Any]:
    """A response with these headers, which are names of components, and contents by media type."""
    found = {"description": description, "headers": {name: name for name in headers}}
    return {**found, "content": contents} if contents else found


def content(schema: dict[str, Any], examples: Iterable[str] = ()) -> dict[str, Any]:
    """A content with these examples, which are names of components."""
    named = {name: name for name in examples}
    return {"schema": schema, "examples": named} if named else {"schema": schema}


def _problem(kind: type[errors.ProxyError], detail: str) -> dict[str, Any]:
    return {
        "type": f"urn:ksef-proxy:problem:{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "code": kind.code,
        "requestId": "0f7c2f6f4b9c4a0e8a51d3f2b6f0e7aa",
        **examples.EXTRA.get(kind, {}),
    }


def camel_case(name: str) -> str:
    """`session_status` as `sessionStatus`."""
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))
