"""A blueprint with strict parameters, authentication and described answers."""

import codecs
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import wraps
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import flask
import msgspec
from apispec import APISpec
from flask import request
from marshmallow import Schema, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from app import errors
from app.api import basic_auth, openapi
from app.api.answers import Answer
from app.api.basic_auth import View
from app.api.schemas import NoQuery

LONGEST_BODY = 64  # KiB
TOO_LONG = f"Is longer than {LONGEST_BODY} KiB."
_NOT_UTF8 = "Must be UTF-8."


def takes(
    path: type[Schema] | None = None,
    query: type[Schema] | None = None,
    *,
    json: type[Schema] | None = None,
    form: type[Schema] | None = None,
    unless_query: type[Schema] = NoQuery,
) -> Callable[[View], View]:
    """A decorator that validates the parts of a request.

    The view gets those that are named, loaded, in this order. A query that is not named is
    validated by `unless_query`.
    """
    named = {"path": path, "query": query or unless_query, "json": json, "form": form}
    # Instances, since a schema class would be instantiated for each request.
    parts = {location: schema() for location, schema in named.items() if schema}

    def decorate(view: View) -> View:
        @wraps(view)
        def checked(**_url: str) -> Any:
            loaded = {location: _load(schema, location) for location, schema in parts.items()}
            if query is None:
                del loaded["query"]
            return view(*loaded.values())

        operation = _operation(checked)
        operation["parameters"] = [
            {"in": location, "schema": parts[location]}
            for location in ("query", "path")
            if location in parts
        ]
        if json:
            content = {"application/json": {"schema": parts["json"]}}
            operation["requestBody"] = {"required": True, "content": content}
        return cast(View, checked)

    return decorate


class Blueprint(flask.Blueprint):
    """The calls of one resource. They need a role, unless the blueprint is `public`.

    `guard` runs before each view, and raises if the caller may not use it.
    """

    def __init__(
        self,
        name: str,
        *,
        description: str,
        public: bool = False,
        guard: Callable[[], None] = basic_auth.require_role,
    ) -> None:
        super().__init__(name, __name__)
        self._description = description
        self._public = public
        if not public:
            self.before_request(guard)

    @staticmethod
    def answers(
        schema: type[Answer] | None,
        description: str,
        *headers: str,
        status: int = 200,
        examples: Sequence[str] = (),
        also: Mapping[str, Any] = MappingProxyType({}),
    ) -> Callable[[View], View]:
        """A decorator that describes a successful answer in /openapi.json.

        `headers` and `examples` are names of components in `app.api.openapi`; `also` has the
        schemas of other media types than JSON.
        """
        contents = {media_type: openapi.content(other) for media_type, other in also.items()}
        if schema:
            own = {"$ref": f"#/components/schemas/{schema.__name__}"}
            contents = {"application/json": openapi.content(own, examples), **contents}

        def decorate(view: View) -> View:
            named = (*openapi.ALWAYS, *headers)
            _operation(view)["responses"][status] = openapi.response(description, named, contents)
            return view

        return decorate

    def problems(self, *kinds: type[errors.ProxyError]) -> Callable[[View], View]:
        """A decorator that describes the errors of a call in /openapi.json.

        `kinds` are the errors besides those that every call may have.
        """
        always: set[type[errors.ProxyError]] = {
            errors.InvalidParameter,
            errors.Unavailable,
            errors.ProxyError,
        }
        if not self._public:
            always |= {errors.Unauthorized, errors.Forbidden}

        def decorate(view: View) -> View:
            _operation(view)["responses"] |= openapi.problems({*always, *kinds})
            return view

        return decorate

    def describe(self, app: flask.Flask, spec: APISpec) -> None:
        """Add the calls to an OpenAPI document."""
        spec.tag({"name": self.name, "description": self._description})
        for rule in app.url_map.iter_rules():
            if not rule.endpoint.startswith(f"{self.name}."):
                continue
            view = app.view_functions[rule.endpoint]
            summary, _, description = (inspect.getdoc(view) or "").partition("\n\n")
            operation = {
                **deepcopy(_operation(view)),  # apispec changes it
                "summary": summary,
                "description": description,
                "tags": [self.name],
                "security": [] if self._public else [{"basic": []}],
                "operationId": openapi.camel_case(view.__name__),
            }
            [method] = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            headers: list[Any] = ["X-Request-ID"]
            if 304 in operation["responses"]:
                headers.insert(0, openapi.IF_NONE_MATCH)
            spec.path(
                re.sub("<(.+?)>", r"{\1}", rule.rule),
                operations={method.lower(): operation},
                parameters=headers,
            )


def _operation(view: Callable[..., Any]) -> dict[str, Any]:
    """What is described of a view so far, as OpenAPI has it."""
    empty: dict[str, Any] = {"parameters": [], "responses": {}}
    operation: dict[str, Any] = view.__dict__.setdefault("operation", empty)
    return operation


def refuse_query() -> None:
    """InvalidParameter for any query parameter, where no view of a `Blueprint` checks them."""
    _load(NoQuery(), "query")


def _load(schema: Schema, location: str) -> Any:
    """A part of the request, by its schema.

    Raises InvalidParameter, which names what is wrong but does not repeat the values.
    """
    try:
        return schema.load(_READ[location]())
    except ValidationError as error:
        found = error.messages_dict
        raise errors.InvalidParameter(
            "Invalid: " + ", ".join(sorted(map(_printable, found))) + ".",
            errors={_printable(name): _sentences(what) for name, what in found.items()},
        ) from error


def _path() -> dict[str, Any]:
    return request.view_args or {}


def _query() -> dict[str, str]:
    """The query parameters; ValidationError if one is given twice or is not UTF-8."""
    if broken := _not_utf8(request.query_string):
        raise ValidationError({name: [_NOT_UTF8] for name in broken})
    repeated = [name for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        raise ValidationError({name: ["Given more than once."] for name in repeated})
    return request.args.to_dict()


def _form() -> dict[str, str]:
    """The fields of a form; ValidationError if one is not UTF-8."""
    if broken := _not_utf8(request.get_data()):
        raise ValidationError({name: [_NOT_UTF8] for name in broken})
    return request.form.to_dict()


def _json() -> dict[str, Any]:
    """The body, a JSON object; what else it is, is told as what is wrong with `body`."""
    if request.mimetype != "application/json":
        raise _wrong_body("Content-Type must be application/json.")
    try:
        body = _parsed(request.get_data())
    except RequestEntityTooLarge:
        raise _wrong_body(TOO_LONG) from None
    if not isinstance(body, dict):
        raise _wrong_body("Must be a JSON object.")
    return body


_READ = {"path": _path, "query": _query, "json": _json, "form": _form}


def _not_utf8(urlencoded: bytes) -> list[str]:
    """The names of values that Flask would take for others, since they are no UTF-8."""
    broken = []
    for part in urlencoded.split(b"&"):
        try:
            unquote_to_bytes(part).decode()
        except UnicodeDecodeError:
            broken.append(unquote_to_bytes(part.partition(b"=")[0]).decode(errors="replace"))
    return broken


def _wrong_body(sentence: str) -> ValidationError:
    return ValidationError({"body": [sentence]})


def _parsed(body: bytes) -> Any:
    if not body:
        raise _wrong_body("Is missing.")
    if body.startswith(codecs.BOM_UTF8):
        raise _wrong_body("Must be UTF-8 without a byte order mark.")
    try:
        return msgspec.json.decode(body.decode())
    except UnicodeDecodeError:
        raise _wrong_body(_NOT_UTF8) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise _wrong_body(f"Cannot be read as JSON: {_where_it_breaks(body) or error}.") from None


def _where_it_breaks(body: bytes) -> str | None:
    """What is wrong with JSON, by line and column; None if the standard library would take it."""
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        return f"{error.msg} (line {error.lineno}, column {error.colno})"
    except RecursionError:
        return "it is nested too deeply"
    return None


def _printable(name: object) -> str:
    """A parameter's name, or `?` if it is unsafe to repeat: unknown names are the caller's text."""
    text = str(name)
    return text if text.isascii() and text.isprintable() and len(text) <= 64 else "?"


def _sentences(found: Any) -> list[str]:
    if isinstance(found, dict):
        return [text for value in found.values() for text in _sentences(value)]
    return [str(text) for text in found] if isinstance(found, list) else [str(found)]
