"""The files of docs/openapi and docs/collection: up to date, and no release breaks the one before.

What the contract says of the service: tests/api/test_openapi.py. The requests of the collection,
sent: tests/journeys/test_collection.py.
"""

import json
import re
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest

from app.version import VERSION
from tests.additive import breaks
from tests.contract import COLLECTION, OPENAPI, PROJECT, document, files, is_released

Change = Callable[[Any], object]
STATUS = "/invoices/{environment}/status/{referenceNumber}"
SIMULATION = "/outages/{environment}/simulation"


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def promised_by(text: str) -> tuple[int, ...]:
    """The part of a version within which the API only grows."""
    return version(text)[: 1 if version(text)[0] else 2]


def schemas(changed: Any) -> Any:
    return changed["components"]["schemas"]


def operation(changed: Any, path: str = STATUS, method: str = "get") -> Any:
    return changed["paths"][path][method]


@pytest.fixture(scope="module")
def contract() -> Any:
    return document()


@pytest.mark.parametrize("file", [OPENAPI / f"{VERSION}.json", COLLECTION], ids=lambda f: f.name)
def test_the_files_are_up_to_date(file: Any) -> None:
    assert file.read_text("utf-8") == files()[file], "run: make contract"


def test_there_is_a_file_of_each_release() -> None:
    told = re.findall(r"^## (\S+) \(", (PROJECT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert {file.stem for file in OPENAPI.iterdir()} == {*told}


def test_no_release_breaks_the_one_before() -> None:
    known = sorted((file.stem for file in OPENAPI.iterdir()), key=version)
    for before, after in pairwise(known):
        if promised_by(before) == promised_by(after):
            old, new = (
                json.loads((OPENAPI / f"{one}.json").read_text("utf-8")) for one in (before, after)
            )
            assert breaks(old, new) == [], f"from {before} to {after}"


def test_versions_promise_what_semantic_versions_do() -> None:
    assert promised_by("0.1.9") == promised_by("0.1.10") != promised_by("0.2.0")
    assert promised_by("1.2.0") == promised_by("1.10.3") != promised_by("2.0.0")


def test_what_is_released_is_known_from_the_changelog() -> None:
    assert is_released("1.2.0", "# Changelog\n\n## 1.2.0 (2027-01-31)\n\n## 1.1.0 (2027-01-02)\n")
    assert not is_released("1.2.0", "# Changelog\n\n## 1.2.0 (unreleased)\n")
    with pytest.raises(ValueError, match=r"does not begin with 1\.3\.0"):
        is_released("1.3.0", "## 1.2.0 (2027-01-31)\n")
    is_released(VERSION, (PROJECT / "CHANGELOG.md").read_text("utf-8"))


BREAKS: dict[str, Change] = {
    "GET /outages/{environment}: gone": lambda d: d["paths"].pop("/outages/{environment}"),
    f"DELETE {SIMULATION}: gone": lambda d: d["paths"][SIMULATION].pop("delete"),
    f"GET {STATUS}: another operationId": lambda d: operation(d).update(operationId="other"),
    "GET /status: another security": lambda d: operation(d, "/status").update(
        security=[{"basic": []}]
    ),
    f"GET {STATUS}, header If-None-Match: gone": lambda d: d["paths"][STATUS]["parameters"].pop(0),
    "GET /invoices/{environment}, query sentAt: required": lambda d: next(
        one
        for one in operation(d, "/invoices/{environment}")["parameters"]
        if one["name"] == "sentAt"
    ).update(required=True),
    f"GET {STATUS}, query new: required": lambda d: operation(d)["parameters"].append(
        {"in": "query", "name": "new", "required": True, "schema": {"type": "string"}}
    ),
    f"GET {STATUS}, path referenceNumber: another pattern": lambda d: operation(d)["parameters"][1][
        "schema"
    ].update(pattern="^SO"),
    f"GET {STATUS}/upo, query docType: another default": lambda d: operation(d, f"{STATUS}/upo")[
        "parameters"
    ][0]["schema"].update(default="pdf"),
    f"GET {STATUS}/upo, query docType: a value is refused": lambda d: schemas(d)["DocType"][
        "enum"
    ].remove("pdf"),
    f"GET {STATUS}, path environment: a value is refused": lambda d: schemas(d)["Environment"][
        "enum"
    ].remove("demo"),
    "GET /events/{environment}, query limit: a narrower maximum": lambda d: operation(
        d, "/events/{environment}"
    )["parameters"][1]["schema"].update(maximum=500),
    "GET /events/{environment}, query after: null is refused": lambda d: operation(
        d, "/events/{environment}"
    )["parameters"][0]["schema"].update(type="string"),
    f"PUT {SIMULATION}, body.endsAt: required": lambda d: schemas(d)["SimulationBody"][
        "required"
    ].append("endsAt"),
    f"PUT {SIMULATION}, body.endsAt: gone": lambda d: schemas(d)["SimulationBody"][
        "properties"
    ].pop("endsAt"),
    f"PUT {SIMULATION}, body.message: a narrower minLength": lambda d: schemas(d)["SimulationBody"][
        "properties"
    ]["message"].update(minLength=2),
    f"PUT {SIMULATION}, body, application/json: gone": lambda d: operation(
        d, SIMULATION, "put"
    ).pop("requestBody"),
    f"DELETE {SIMULATION}: a body is required": lambda d: operation(d, SIMULATION, "delete").update(
        requestBody=operation(d, SIMULATION, "put")["requestBody"]
    ),
    f"GET {STATUS}, 304: gone": lambda d: operation(d)["responses"].pop("304"),
    f"GET {STATUS}, 202: a success of another status": lambda d: operation(d)["responses"].update(
        {"202": operation(d)["responses"]["200"]}
    ),
    f"GET {STATUS}/{{ksefNumber}}/upo, 200, application/pdf: gone": lambda d: operation(
        d, f"{STATUS}/{{ksefNumber}}/upo"
    )["responses"]["200"]["content"].pop("application/pdf"),
    f"GET {STATUS}, 200, header ETag: gone, or not always there": lambda d: d["components"][
        "headers"
    ]["ETag"].update(required=False),
    f"GET {STATUS}, 200, header Age: gone, or not always there": lambda d: operation(d)[
        "responses"
    ]["200"]["headers"].pop("Age"),
    f"GET {STATUS}, 200.final: gone": lambda d: schemas(d)["SessionAnswer"]["properties"].pop(
        "final"
    ),
    f"GET {STATUS}, 200.final: not always there": lambda d: schemas(d)["SessionAnswer"][
        "required"
    ].remove("final"),
    f"GET {STATUS}, 200.invoices[].status.code: string is new": lambda d: schemas(d)["StatusCode"][
        "properties"
    ]["code"].update(type=["integer", "string"]),
    f"GET {STATUS}, 200.invoices[].referenceNumber: null is new": lambda d: schemas(d)[
        "SessionInvoice"
    ]["properties"].update(referenceNumber={"anyOf": [{"type": "string"}, {"type": "null"}]}),
    f"GET {STATUS}, 200.checkedAt: another format": lambda d: schemas(d)["SessionAnswer"][
        "properties"
    ]["checkedAt"].pop("format"),
    f"GET {STATUS}, 200.final: any is new": lambda d: schemas(d)["SessionAnswer"][
        "properties"
    ].update(final={}),
    f"GET {STATUS}, 400.errors[][]: integer is new": lambda d: schemas(d)["Problem"]["properties"][
        "errors"
    ]["additionalProperties"]["items"].update(type="integer"),
}


@pytest.mark.parametrize("found", BREAKS)
def test_a_break_is_found(contract: Any, found: str) -> None:
    changed = deepcopy(contract)
    BREAKS[found](changed)
    assert found in breaks(contract, changed)


ADDITIONS: dict[str, Change] = {
    "nothing": lambda _: None,
    "an operation": lambda d: d["paths"].update({"/other": {"get": operation(d)}}),
    "a parameter": lambda d: operation(d)["parameters"].append(
        {"in": "query", "name": "new", "schema": {"type": "string"}}
    ),
    "a value that may be sent": lambda d: schemas(d)["DocType"]["enum"].append("zip"),
    "a wider limit": lambda d: operation(d, "/events/{environment}")["parameters"][1][
        "schema"
    ].update(maximum=5000),
    "a member of a body": lambda d: schemas(d)["SimulationBody"]["properties"].update(
        category={"type": "string"}
    ),
    "an error of another status": lambda d: operation(d)["responses"].update(
        {"429": operation(d)["responses"]["503"]}
    ),
    "a code of an error": lambda d: schemas(d)["ProblemCode"]["enum"].append("new"),
    "a member of an answer": lambda d: schemas(d)["SessionAnswer"]["properties"].update(
        more={"type": "string"}
    ),
    "one that is always there": lambda d: schemas(d)["KsefSaid"].update(
        required=[*schemas(d)["KsefSaid"]["properties"]]
    ),
    "an answer that is never null": lambda d: schemas(d)["SessionInvoice"]["properties"].update(
        invoiceHash={"type": "string"}
    ),
    "other words": lambda d: operation(d).update(summary="…", description="…"),
    "a schema's other name": lambda d: schemas(d).update(
        SessionAnswer={"$ref": "#/components/schemas/Renamed"}, Renamed=schemas(d)["SessionAnswer"]
    ),
}


@pytest.mark.parametrize("change", ADDITIONS.values(), ids=ADDITIONS)
def test_an_addition_is_none(contract: Any, change: Change) -> None:
    changed = deepcopy(contract)
    change(changed)
    assert breaks(contract, changed) == []


def test_what_cannot_be_compared_is_said(contract: Any) -> None:
    changed = deepcopy(contract)
    schemas(changed)["DocType"] = {"allOf": [{"type": "string"}]}
    with pytest.raises(NotImplementedError, match="allOf"):
        breaks(contract, changed)
