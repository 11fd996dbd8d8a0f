"""The document describes what is answered: it is valid, and real answers fit it."""

import base64
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from http import HTTPStatus
from typing import Any

import pytest
from flask import Flask
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from werkzeug.test import TestResponse

from app.api.examples import INVOICE, SESSION
from app.api.schemas import UpoPath
from sandbox.control import Control
from tests.service import Company

Fits = Callable[..., Any]
STATUS = "/invoices/{environment}/status/{referenceNumber}"
UPO = STATUS + "/{ksefNumber}/upo"
SESSION_UPO = STATUS + "/upo"
AUTH = "/auth/{environment}"
OUTAGE = "/outages/{environment}"
SIMULATION = "/outages/{environment}/simulation"


@pytest.fixture
def document(app: Flask) -> Any:
    return app.test_client().get("/openapi.json").get_json()


@pytest.fixture
def fits(document: Any) -> Fits:
    """Assert that an answer is one that the document describes, without a member more."""
    closed = deepcopy(document)
    for schema in closed["components"]["schemas"].values():
        assert schema["type"] == "object" or schema["enum"]
        if schema["type"] == "object":
            schema["additionalProperties"] = False
    headers = closed["components"]["headers"]

    def check(answer: TestResponse, template: str, method: str = "get") -> Any:
        described = closed["paths"][template][method]["responses"][str(answer.status_code)]
        required = {name for name in described["headers"] if headers[name].get("required")}
        assert required <= {*answer.headers.keys()} & {*headers} <= {*described["headers"]}
        if answer.status_code in (204, 304):
            assert "content" not in described
            assert answer.data == b""
            return None
        schema = described["content"][answer.content_type]["schema"]
        body = answer.get_json()
        whole = {**schema, "components": closed["components"]}
        Draft202012Validator(whole, format_checker=FormatChecker()).validate(body)
        return body

    return check


def test_the_document_is_valid(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    validate(document, cls=OpenAPIV31SpecValidator)


def test_every_parameter_of_a_path_is_described_once_and_by_its_pattern(document: Any) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            described = [p for p in operation["parameters"] if p["in"] == "path"]
            names = [parameter["name"] for parameter in described]
            assert sorted(names) == sorted(part[1:-1] for part in path.split("/") if "{" in part)
            assert all({"$ref", "pattern"} & {*p["schema"]} for p in described), path


def operations(document: Any) -> Iterator[tuple[str, Any]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield f"{method} {path}", operation


def test_everything_is_explained(document: Any) -> None:
    parameters = [*document["components"]["parameters"].values()]
    for name, operation in operations(document):
        parameters += operation.get("parameters", [])
        assert {"summary", "description", "operationId"} <= operation.keys(), name
        for status, answer in operation["responses"].items():
            assert answer["description"] != HTTPStatus(int(status)).phrase, (name, status)
    for parameter in parameters:
        assert parameter["description"], parameter["name"]
    for kind, schema in document["components"]["schemas"].items():
        for name, member in schema.get("properties", {}).items():
            assert "description" in member or "$ref" in str(member), (kind, name)


def test_operations_have_names_of_their_own(document: Any) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len({*names}) == len(names)


def test_a_throttled_caller_is_told_of_retry_after(document: Any) -> None:
    for name, operation in operations(document):
        if operation["security"]:
            headers = operation["responses"]["401"]["headers"]
            assert {"Retry-After", "WWW-Authenticate"} <= headers.keys(), name


def test_examples_fit_their_schemas(document: Any) -> None:
    components = document["components"]
    shown = set()
    for name, operation in operations(document):
        for status, answer in operation["responses"].items():
            for content in answer.get("content", {}).values():
                for example in content.get("examples", {}):
                    shown.add(example)
                    schema = {**content["schema"], "components": components}
                    value = components["examples"][example]["value"]
                    Draft202012Validator(schema, format_checker=FormatChecker()).validate(value)
                    assert value.get("status") in (int(status), None) or status == "200", name
    assert shown == components["examples"].keys()


def test_examples_of_parameters_are_accepted(document: Any) -> None:
    seen = set()
    for _, operation in operations(document):
        for parameter in operation.get("parameters", []):
            for example in parameter["schema"].get("examples", ()):
                seen.add(parameter["name"])
                assert re.search(parameter["schema"].get("pattern", ""), example)
    assert seen >= {"environment", "referenceNumber", "ksefNumber", "invoiceNumber"}
    assert (
        UpoPath().validate(
            {"environment": "test", "referenceNumber": SESSION, "ksefNumber": INVOICE}
        )
        == {}
    )


def test_sessions(fits: Fits, company: Company, control: Control) -> None:
    other = control.seed_session("test", company.nip, invoices=1)
    finished = control.seed_session(
        "test",
        company.nip,
        kind="batch",
        invoices=[
            {},
            {"status": 410},
            {"status": 440, "originalKsefNumber": other.ksef_numbers[0]},
        ],
    )
    body = fits(company.get(f"/invoices/test/status/{finished.reference_number}"), STATUS)
    assert [i["status"]["code"] for i in body["invoices"]] == [200, 410, 440]
    assert "duplicateOf" in body["invoices"][2]
    moving = control.seed_session("test", company.nip, state="moving", invoices=2)
    answer = company.get(f"/invoices/test/status/{moving.reference_number}")
    assert "nextCheckAfter" in fits(answer, STATUS)


def test_a_session_that_is_known_already(fits: Fits, company: Company, control: Control) -> None:
    session = control.seed_session("test", company.nip, invoices=1)
    path = f"/invoices/test/status/{session.reference_number}"
    unchanged = company.get(path, headers={"If-None-Match": company.get(path).headers["ETag"]})
    assert unchanged.status_code == 304
    fits(unchanged, STATUS)


def test_upos(fits: Fits, company: Company, control: Control) -> None:
    session = control.seed_session("test", company.nip, invoices=1)
    path = f"/invoices/test/status/{session.reference_number}/{session.ksef_numbers[0]}/upo"
    for doc_type, begin in (("xml", b"<?xml"), ("pdf", b"%PDF-")):
        answer = company.get(f"{path}?docType={doc_type}")
        body = fits(answer, UPO)
        assert base64.b64decode(body["content"]).startswith(begin)
        tag = {"If-None-Match": answer.headers["ETag"]}
        unchanged = company.get(f"{path}?docType={doc_type}", headers=tag)
        assert unchanged.status_code == 304
        fits(unchanged, UPO)


@pytest.mark.parametrize(
    ("template", "doc_type", "media_type"),
    [
        (UPO, "xml", "application/xml"),
        (UPO, "pdf", "application/pdf"),
        (SESSION_UPO, "xml", "application/xml"),
        (SESSION_UPO, "pdf", "application/pdf"),
        (SESSION_UPO, "pdf", "application/zip"),
    ],
)
def test_documents_themselves(
    document: Any,
    company: Company,
    control: Control,
    template: str,
    doc_type: str,
    media_type: str,
) -> None:
    session = control.seed_session("test", company.nip, invoices=1)
    path = template.format(
        environment="test",
        referenceNumber=session.reference_number,
        ksefNumber=session.ksef_numbers[0],
    )
    answer = company.get(f"{path}?docType={doc_type}", headers={"Accept": media_type})
    assert answer.content_type == media_type
    described = document["paths"][template]["get"]["responses"]["200"]
    assert described["content"][media_type]["schema"] == {"type": "string", "format": "binary"}
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert {"Content-Disposition", "UPO-Signature"} <= described["headers"].keys()


def test_the_ksef_session(fits: Fits, company: Company) -> None:
    fits(company.request("POST", "/auth/test"), AUTH, "post")
    fits(company.get("/auth/test"), AUTH)
    fits(company.request("DELETE", "/auth/test"), AUTH, "delete")
    assert fits(company.get("/auth/test"), AUTH)["code"] == "no_active_ksef_session"


def test_outages(fits: Fits, company: Company) -> None:
    assert not fits(company.get("/outages/test"), OUTAGE)["outage"]["established"]
    for ends_at in (None, "2099-01-01T00:00:00+01:00"):
        order = {"message": "Próba", "endsAt": ends_at}
        fits(company.request("PUT", "/outages/test/simulation", json=order), SIMULATION, "put")
    assert fits(company.get("/outages/test"), OUTAGE)["outage"]["established"]
    path = "/invoices/test/status/20260115-SO-0123456789-ABCDEF0123-4F"
    assert fits(company.get(path), STATUS)["outage"]["messages"][0]["text"] == "Próba"
    fits(company.request("DELETE", "/outages/test/simulation"), SIMULATION, "delete")
    forbidden = company.request("PUT", "/outages/prod/simulation", json=order)
    assert fits(forbidden, SIMULATION, "put")["code"] == "simulation_forbidden"


def test_the_service(fits: Fits, app: Flask) -> None:
    for path in ("/status", "/livez", "/readyz"):
        fits(app.test_client().get(path), path)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"kind": "ksef-error", "code": 21173}, 404, "session_not_found"),
        ({"kind": "ksef-error", "code": 21001}, 502, "ksef_error"),
        ({"kind": "html-503"}, 502, "ksef_error"),
        ({"kind": "forbidden"}, 502, "ksef_error"),
        ({"kind": "waf-403"}, 502, "ksef_error"),
        ({"kind": "rate-limited", "retryAfter": 2680}, 502, "ksef_rate_limited"),
        ({"kind": "reset"}, 502, "ksef_unreachable"),
        ({"kind": "invalid-json"}, 502, "ksef_invalid_response"),
    ],
    ids=lambda value: value.get("kind") if isinstance(value, dict) else str(value),
)
def test_errors_of_ksef(
    fits: Fits, company: Company, control: Control, fault: Any, status: int, code: str
) -> None:
    session = control.seed_session("test", company.nip, invoices=1)
    control.fault(**fault, path="/sessions/", times=2)  # some are asked for once more
    answer = company.get(f"/invoices/test/status/{session.reference_number}")
    assert (answer.status_code, fits(answer, STATUS)["code"]) == (status, code)


def test_errors_of_the_caller(fits: Fits, company: Company) -> None:
    wrong = f"/invoices/test/status/{'x' * 8}"
    assert fits(company.get(wrong), STATUS)["errors"].keys() == {"referenceNumber"}
    assert fits(company.client.get(wrong), STATUS)["code"] == "unauthorized"
