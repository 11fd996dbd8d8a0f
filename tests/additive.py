"""Whether one OpenAPI document only adds to another: whoever used the old one can use the new one.

A caller may send what it sent, and understands what it gets. So of a request nothing may be taken
away or demanded anew; of an answer nothing may be missing, be of another type, or become optional.
What callers are told to expect is no break: more members in an answer, more values of an enum in
one, more error codes of a status that was described.
"""

from collections.abc import Iterator, Mapping
from typing import Any

BOUNDS = {
    "minimum": 1,
    "minLength": 1,
    "minItems": 1,
    "maximum": -1,
    "maxLength": -1,
    "maxItems": -1,
}
"""Limits of a schema, with the sign in which they grow narrower."""


def breaks(old: Any, new: Any) -> list[str]:
    """What somebody who used the old document would stumble over; empty if nothing."""
    return sorted({*_Comparison(old, new).breaks()})


class _Comparison:
    def __init__(self, old: Any, new: Any) -> None:
        self.old, self.new = old, new

    def breaks(self) -> Iterator[str]:
        for path, item in self.old["paths"].items():
            for method, operation in item.items():
                if method == "parameters":
                    continue
                name = f"{method.upper()} {path}"
                there = self.new["paths"].get(path, {})
                if method not in there:
                    yield f"{name}: gone"
                else:
                    yield from self._operation(name, (item, operation), (there, there[method]))

    def _operation(self, name: str, old: tuple[Any, Any], new: tuple[Any, Any]) -> Iterator[str]:
        for key in ("operationId", "security", "tags"):  # generated clients are named after them
            if old[1].get(key) != new[1].get(key):
                yield f"{name}: another {key}"
        yield from self._parameters(name, _parameters(self.old, *old), _parameters(self.new, *new))
        body, new_body = old[1].get("requestBody"), new[1].get("requestBody")
        if new_body and new_body.get("required") and not (body and body.get("required")):
            yield f"{name}: a body is required"
        if body:
            yield from self._content(f"{name}, body", body, new_body or {}, asked=True)
        yield from self._responses(name, old[1]["responses"], new[1]["responses"])

    def _parameters(self, name: str, old: Any, new: Any) -> Iterator[str]:
        for key in new.keys() | old.keys():
            where = f"{name}, {key[0]} {key[1]}"
            if key not in new:
                yield f"{where}: gone"
                continue
            if new[key].get("required") and not old.get(key, {}).get("required"):
                yield f"{where}: required"
            if key in old:
                yield from self._schema(where, old[key]["schema"], new[key]["schema"], asked=True)

    def _responses(self, name: str, old: Any, new: Any) -> Iterator[str]:
        for status in new.keys() - old.keys():
            if status < "4":
                yield f"{name}, {status}: a success of another status"
        for status, answer in old.items():
            where = f"{name}, {status}"
            if status not in new:
                yield f"{where}: gone"
                continue
            yield from self._content(where, answer, new[status], asked=False)
            for header, about in answer.get("headers", {}).items():
                there = new[status].get("headers", {}).get(header)
                sure = resolved(self.old, about).get("required")
                if there is None or (sure and not resolved(self.new, there).get("required")):
                    yield f"{where}, header {header}: gone, or not always there"

    def _content(self, where: str, old: Any, new: Any, *, asked: bool) -> Iterator[str]:
        for media_type, content in old.get("content", {}).items():
            there = new.get("content", {}).get(media_type)
            if there is None:
                yield f"{where}, {media_type}: gone"
            else:
                yield from self._schema(where, content["schema"], there["schema"], asked=asked)

    def _schema(self, where: str, old: Any, new: Any, *, asked: bool) -> Iterator[str]:
        """`asked`: what callers send, so the new schema must take all that the old one took; else
        what they get, so the old one must have told of all that the new one gives."""
        narrow, wide = (_choices(self.old, old), _choices(self.new, new))
        if not asked:
            narrow, wide = wide, narrow
        for kind, one in narrow.items():
            other = wide.get(kind, wide.get("number" if kind == "integer" else "any"))
            if other is None:
                yield f"{where}: {kind} is {'refused' if asked else 'new'}"
            else:
                before, after = (one, other) if asked else (other, one)
                yield from self._alike(where, before, after, asked=asked)

    def _alike(self, where: str, old: Any, new: Any, *, asked: bool) -> Iterator[str]:
        """Two schemas of one type."""
        for key in ("format", "contentEncoding", *(("pattern", "default") if asked else ())):
            if old.get(key) != new.get(key):
                yield f"{where}: another {key}"
        if asked:
            if "enum" in new and not {*old.get("enum", (None,))} <= {*new["enum"]}:
                yield f"{where}: a value is refused"
            for key, sign in BOUNDS.items():
                if key in new and (key not in old or sign * new[key] > sign * old[key]):
                    yield f"{where}: a narrower {key}"
        sure, needed = ({*schema.get("required", ())} for schema in (new, old))
        if asked:
            sure, needed = needed, sure
        for name in needed - sure:
            yield f"{where}.{name}: {'required' if asked else 'not always there'}"
        for name, member in old.get("properties", {}).items():
            if name not in new.get("properties", {}):
                yield f"{where}.{name}: gone"
            else:
                yield from self._schema(
                    f"{where}.{name}", member, new["properties"][name], asked=asked
                )
        for key in ("items", "additionalProperties"):
            if isinstance(old.get(key), Mapping):
                yield from self._schema(f"{where}[]", old[key], new.get(key, {}), asked=asked)


def _parameters(document: Any, item: Any, operation: Any) -> dict[tuple[str, str], Any]:
    described = [*item.get("parameters", ()), *operation.get("parameters", ())]
    found = [resolved(document, parameter) for parameter in described]
    return {(parameter["in"], parameter["name"]): parameter for parameter in found}


def resolved(document: Any, found: Any) -> Any:
    """What a reference leads to, with the members beside the reference on top."""
    if "$ref" not in found:
        return found
    target: Any = document
    for part in found["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    beside = {key: value for key, value in found.items() if key != "$ref"}
    if "properties" in beside:
        beside["properties"] = {**target["properties"], **beside["properties"]}
    return {**resolved(document, target), **beside}


def _choices(document: Any, schema: Any) -> dict[str, Any]:
    """The alternatives of a schema, by type; `any` if it names none."""
    whole = resolved(document, schema)
    if not_compared := {"allOf", "not", "if", "patternProperties"} & whole.keys():
        raise NotImplementedError(f"{not_compared} in {schema}")
    parts = whole.get("anyOf", whole.get("oneOf"))
    if parts is None:
        kinds = whole.get("type", "any")
        return dict.fromkeys([kinds] if isinstance(kinds, str) else kinds, whole)
    found = [choice for part in parts for choice in _choices(document, part).items()]
    if len(dict(found)) < len(found):
        raise NotImplementedError(f"two alternatives of one type in {schema}")
    return dict(found)
