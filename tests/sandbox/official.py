"""Checks answers against KSeF's official OpenAPI 3.0 document."""

import base64
import binascii
import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from jsonschema import Draft202012Validator, FormatChecker
from rfc3339_validator import validate_rfc3339

FORMATS = FormatChecker(formats=())


@FORMATS.checks("date-time")
def _is_date_time(value: object) -> bool:
    # Python reads at most seven fractional digits as KSeF writes them; so may a client.
    return not isinstance(value, str) or (
        bool(validate_rfc3339(value)) and re.search(r"\.\d{8,}", value) is None
    )


@FORMATS.checks("uri")
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or bool(urlsplit(value).scheme and urlsplit(value).netloc)


@FORMATS.checks("byte", raises=binascii.Error)
def _is_base64(value: object) -> bool:
    if isinstance(value, str):
        base64.b64decode(value, validate=True)
    return True


@FORMATS.checks("int32")
def _is_int32(value: object) -> bool:
    return not isinstance(value, int) or -(2**31) <= value < 2**31


class Contract:
    """The document at `path`, ready to judge answers."""

    def __init__(self, path: Path) -> None:
        document = json.loads(path.read_text(encoding="utf-8"))
        self.folder = path.parent
        self.paths: dict[str, Any] = document["paths"]
        self._schemas = document["components"]["schemas"]
        self._components = {"schemas": _convert(self._schemas)}

    def check(self, method: str, template: str, answer: requests.Response) -> None:
        """Fails unless the contract has this answer for the call."""
        responses = self.paths[template][method.lower()]["responses"]
        status = str(answer.status_code)
        assert status in responses, f"{method} {template} does not answer {status}: {answer.text}"
        content = responses[status].get("content", {})
        if not content:
            assert answer.content == b""
            return
        media_type = answer.headers["Content-Type"].partition(";")[0]
        assert media_type in content, f"{template} {status}: {media_type}"
        for name, header in responses[status].get("headers", {}).items():
            if name in answer.headers:
                self.validate(header["schema"], _header_value(answer.headers[name]))
        if media_type.endswith("json"):
            self.validate(content[media_type]["schema"], answer.json())

    def breaches(
        self, method: str, template: str, body: dict[str, Any]
    ) -> Iterator[tuple[str, Any]]:
        """Bodies that break the contract in one place each, and what is wrong with them.

        `body` is one that does not; of it only members that are there are spoilt.
        """
        content = self.paths[template][method.lower()]["requestBody"]["content"]
        for path, wrong, what in self._wrongs(content["application/json"]["schema"], body):
            yield f"{'.'.join(map(str, path))}: {what}", _replaced(body, path, wrong)

    def _wrongs(
        self, schema: dict[str, Any], value: Any, path: tuple[str | int, ...] = ()
    ) -> Iterator[tuple[tuple[str | int, ...], Any, str]]:
        rules = self._merged(schema)
        kind = rules.get("type", "object")
        if not rules.get("nullable"):
            yield path, None, "null"
        for other, wrong in (("string", "x"), ("integer", 5), ("boolean", True), ("array", [])):
            if other != kind:
                yield path, wrong, f"{other} in place of {kind}"
        if "minLength" in rules:
            yield path, value[: rules["minLength"] - 1], "too short"
        if "maxLength" in rules:
            yield path, value.ljust(rules["maxLength"] + 1, "A"), "too long"
        if rules.get("format") == "byte":
            yield path, "*" * len(value), "not Base64"
        if "enum" in rules or "pattern" in rules:
            yield path, "?", "not one of them"
        if kind == "integer":
            yield path, 1.5, "a fraction"
            yield path, rules["minimum"] - 1, "too small"
            yield path, rules.get("maximum", 2**63 - 1) + 1, "too large"
        if kind == "array":
            yield path, value * 100, "too many"
            for number, one in enumerate(value):
                yield from self._wrongs(rules["items"], one, (*path, number))
        for name in rules.get("required", ()):
            yield path, {other: value[other] for other in value if other != name}, f"no {name}"
        for name, member in rules.get("properties", {}).items():
            if name in value:
                yield from self._wrongs(member, value[name], (*path, name))

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema with what it refers to."""
        rules: dict[str, Any] = {}
        if "$ref" in schema:
            rules |= self._merged(self._schemas[schema["$ref"].rpartition("/")[2]])
        for part in schema.get("allOf", ()):
            rules |= self._merged(part)
        return rules | schema

    def validate(self, schema: dict[str, Any], value: Any) -> None:
        """Fails unless `value` fits the schema, formats included, without unknown members."""
        whole = {"components": self._components, "allOf": [_convert(schema)]}
        errors = [
            f"{error.json_path}: {error.message}"
            for error in Draft202012Validator(whole, format_checker=FORMATS).iter_errors(value)
        ]
        assert not errors, "\n".join(errors)


def _replaced(body: dict[str, Any], path: tuple[Any, ...], wrong: Any) -> Any:
    if not path:
        return wrong
    changed = copy.deepcopy(body)
    inner: Any = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = wrong
    return changed


def _header_value(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _convert(schema: Any) -> Any:
    """OpenAPI 3.0 to JSON Schema: `nullable`, and objects closed to unknown members."""
    if isinstance(schema, list):
        return [_convert(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {
        name: _convert(part)
        for name, part in schema.items()
        if name not in ("example", "nullable", "readOnly", "deprecated", "description")
        or isinstance(part, dict)
    }
    if isinstance(converted.get("properties"), dict):
        converted.setdefault("additionalProperties", False)
    if schema.get("nullable") is True:
        return {"anyOf": [{"type": "null"}, converted]}
    return converted
