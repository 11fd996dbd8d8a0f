"""`make contract`: the files made from the contract: docs/openapi/VERSION.json and the collection
of requests for Postman, Bruno and their like.

docs/openapi keeps the file of each release; only that of the version in the making is written.
"""

import json
import re
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

from app import create_app, settings
from app.context import EXTENSION
from app.version import VERSION
from sandbox import demo
from tests.additive import resolved

PROJECT = Path(__file__).parents[1]
OPENAPI = PROJECT / "docs" / "openapi"
COLLECTION = PROJECT / "docs" / "collection" / "ksef-proxy.postman_collection.json"
SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"


def document() -> Any:
    """What /openapi.json answers; that needs neither database nor KSeF."""
    app = create_app(
        settings.Settings(
            database_url="host=/nowhere",
            secret_keys=(bytes(32),),
            ksef_urls=settings.DEFAULT_KSEF_URLS,
            log_level="WARNING",
        )
    )
    app.extensions[EXTENSION].db.close()
    return app.test_client().get("/openapi.json").get_json()


def files() -> dict[Path, str]:
    """The files, as they are to be."""
    made = document()
    return {
        OPENAPI / f"{VERSION}.json": _as_text(made),
        COLLECTION: _as_text(collection(made)),
    }


def is_released(version: str, changelog: str) -> bool:
    """Whether the changelog says so. ValueError if it does not begin with this version."""
    found = re.search(r"^## (\S+) \((.+)\)$", changelog, re.MULTILINE)
    if found is None or found[1] != version:
        raise ValueError(f"CHANGELOG.md does not begin with {version}")
    return found[2] != "unreleased"


def collection(document: Any) -> dict[str, Any]:
    """A Postman collection (v2.1): a request for each operation, in a folder for each tag."""
    folders: dict[str, Any] = {
        tag["name"]: {"name": tag["name"], "description": tag["description"], "item": []}
        for tag in document["tags"]
    }
    for path, item in document["paths"].items():
        common = item.get("parameters", [])
        for method, operation in item.items():
            if method != "parameters":
                made = _request(document, path, method, operation, common)
                folders[operation["tags"][0]]["item"].append(made)
    return {
        "info": {
            "name": document["info"]["title"],
            "description": "Made from the contract; the examples exist under `make run`.\n\n"
            + document["info"]["description"],
            "schema": SCHEMA,
        },
        "auth": {
            "type": "basic",
            "basic": [
                {"key": "username", "value": "{{user}}", "type": "string"},
                {"key": "password", "value": "{{password}}", "type": "string"},
            ],
        },
        "variable": [
            {"key": "baseUrl", "value": "http://127.0.0.1:8080"},
            {"key": "user", "value": demo.EMAIL},
            {"key": "password", "value": "", "description": "`make run` prints it"},
        ],
        "item": [*folders.values()],
    }


def _request(
    document: Any, path: str, method: str, operation: Any, common: list[Any]
) -> dict[str, Any]:
    parameters = [
        resolved(document, found) for found in [*operation.get("parameters", []), *common]
    ]
    path_values, query, headers = (
        [_entry(found) for found in parameters if found["in"] == place]
        for place in ("path", "query", "header")
    )
    # Calls need one query parameter at most: of those by which an invoice is found, exactly one.
    for entry in query:
        if entry is not query[0] or not entry["value"]:
            entry["disabled"] = True
    parts = [re.sub(r"{(\w+)}", r":\1", part) for part in path.strip("/").split("/")]
    asked = "&".join(f"{one['key']}={one['value']}" for one in query if not one.get("disabled"))
    url = {
        "raw": "{{baseUrl}}/" + "/".join(parts) + (f"?{asked}" if asked else ""),
        "host": ["{{baseUrl}}"],
        "path": parts,
        "query": query,
        "variable": path_values,
    }
    request: dict[str, Any] = {
        "method": method.upper(),
        "header": [{**found, "disabled": True} for found in headers],
        "url": {name: value for name, value in url.items() if value},
        "description": operation["description"],
    }
    if not operation["security"]:
        request["auth"] = {"type": "noauth"}
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        request["header"].append({"key": "Content-Type", "value": "application/json"})
        request["body"] = {
            "mode": "raw",
            "raw": _example_body(resolved(document, schema)),
            "options": {"raw": {"language": "json"}},
        }
    status = next(code for code in operation["responses"] if code.startswith("2"))
    return {
        "name": operation["summary"].rstrip("."),
        "request": request,
        "event": [
            {"listen": "test", "script": {"type": "text/javascript", "exec": [_test(status)]}}
        ],
    }


def _entry(parameter: Any) -> dict[str, Any]:
    value = parameter.get("example", parameter["schema"].get("default"))
    return {
        "key": parameter["name"],
        "value": "" if value is None else str(value),
        "description": parameter["description"],
    }


def _example_body(schema: Any) -> str:
    members = {name: schema["properties"][name]["examples"][0] for name in schema["required"]}
    return _as_text(members).rstrip()


def _test(status: str) -> str:
    phrase = f"{status} {HTTPStatus(int(status)).phrase}"
    return f'pm.test("{phrase}", () => pm.response.to.have.status({status}));'


def _as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def main() -> None:
    """Write the files, unless they would change what a release says."""
    released = is_released(VERSION, (PROJECT / "CHANGELOG.md").read_text("utf-8"))
    for file, text in files().items():
        if file.exists() and file.read_text("utf-8") == text:
            continue
        if released and file.parent == OPENAPI:
            sys.exit(f"{VERSION} is released: raise VERSION in app/version.py first.")
        file.write_text(text, "utf-8")
        print(f"written: {file.relative_to(PROJECT)}")


if __name__ == "__main__":
    main()
