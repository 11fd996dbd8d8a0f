"""GET /: where whoever begins with the bare address is led."""

import pytest
from flask import Flask

from tests.answers import assert_problem

FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
CHROMIUM = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;"
    "q=0.8,application/signed-exchange;v=b3;q=0.7"
)


@pytest.mark.parametrize(
    "accept", [FIREFOX, CHROMIUM, "text/html", "text/html, application/json;q=0.9"]
)
def test_people_are_led_to_the_console(app: Flask, accept: str) -> None:
    answer = app.test_client().get("/", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/console")
    assert answer.headers["Vary"] == "Accept"


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "application/json, text/plain, */*", "text/plain"]
)
def test_programs_are_told_where_the_contract_is(app: Flask, accept: str | None) -> None:
    client = app.test_client()
    answer = client.get("/", headers={"Accept": accept} if accept else {})
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert answer.get_json() == {
        "contract": "/openapi.json",
        "console": "/console",
        "docs": "/docs",
        "status": "/status",
    }
    assert client.get(answer.get_json()["contract"]).get_json()["openapi"]
    assert answer.headers["Vary"] == "Accept"


def test_it_takes_no_parameter(app: Flask) -> None:
    assert_problem(app.test_client().get("/?a=b"), 400, "invalid_parameter", also=["errors"])
