"""The requests of docs/collection, sent in their order to the service with the demo's data."""

import json
import re
from typing import Any

import pytest
import requests

from app.api.examples import SESSION
from app.service import Service
from sandbox import demo, keys
from sandbox.control import Control
from tests.contract import COLLECTION
from tests.journeys.conftest import RunningService
from tests.service import PASSWORD


@pytest.fixture
def url(server: RunningService, service: Service, control: Control, database: Any) -> str:
    """The service, before what `make run` makes."""
    seal = keys.make_seal(demo.NIP, demo.NAME)
    demo.prepare(service, control, database.owner_dsn, PASSWORD, seal)
    return server.url


@pytest.mark.slow
def test_each_request_is_answered_as_it_says(url: str, http: requests.Session) -> None:
    collection = json.loads(COLLECTION.read_text("utf-8"))
    variables = {one["key"]: one["value"] for one in collection["variable"]}
    variables |= {"baseUrl": url, "password": PASSWORD}
    http.auth = (variables["user"], variables["password"])
    answers = {}
    for folder in collection["item"]:
        for item in folder["item"]:
            answers[item["name"]] = answer = send(http, item["request"], variables)
            [line] = item["event"][0]["script"]["exec"]
            told = re.fullmatch(r"pm\.test\(.*pm\.response\.to\.have\.status\((\d+)\)\);", line)
            assert told, line
            assert answer.status_code == int(told[1]), (item["name"], answer.text)
    [status] = [one.json() for name, one in answers.items() if "What became" in name]
    assert (status["referenceNumber"], status["final"]) == (SESSION, True)
    [found] = [one.json() for name, one in answers.items() if "What is known of an inv" in name]
    assert {row["sessionReferenceNumber"] for row in found["rows"]} == {SESSION}


def send(http: requests.Session, request: Any, variables: dict[str, str]) -> requests.Response:
    """As Postman does it: path, query, header and body, without what is switched off."""

    def filled(text: str) -> str:
        return re.sub(r"{{(\w+)}}", lambda found: variables[found[1]], text)

    def switched_on(entries: list[Any]) -> dict[str, str]:
        return {one["key"]: filled(one["value"]) for one in entries if not one.get("disabled")}

    url = request["url"]
    path = {f":{key}": value for key, value in switched_on(url.get("variable", [])).items()}
    parts = [filled(part) for part in (*url["host"], *(path.get(one, one) for one in url["path"]))]
    public = request.get("auth", {}).get("type") == "noauth"
    return http.request(
        request["method"],
        "/".join(parts),
        params=switched_on(url.get("query", [])),
        headers=switched_on(request["header"]),
        data=request.get("body", {}).get("raw"),
        auth=(lambda unsigned: unsigned) if public else None,
        timeout=30,
    )
