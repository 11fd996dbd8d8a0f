"""Every call that we make stands in KSeF's own OpenAPI document.

The document is not ours to keep: `KSEF_OPENAPI` names it, else these tests are skipped.
"""

import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from app.ksef import client, login
from app.ksef.http import Route

pytestmark = pytest.mark.skipif("KSEF_OPENAPI" not in os.environ, reason="KSEF_OPENAPI is not set")

ROUTES = {
    name: value
    for module in (client, login)
    for name, value in vars(module).items()
    if isinstance(value, Route)
}


@pytest.fixture(scope="module")
def official() -> Any:
    return json.loads(Path(os.environ["KSEF_OPENAPI"]).read_bytes())


@pytest.mark.parametrize("name", ROUTES)
def test_the_call_is_in_the_contract(official: Any, name: str) -> None:
    route = ROUTES[name]
    assert route.method.lower() in official["paths"].get(route.template, {})


@pytest.mark.parametrize("name", ROUTES)
def test_a_bearer_is_sent_where_the_contract_asks_for_one(official: Any, name: str) -> None:
    route = ROUTES[name]
    operation = official["paths"][route.template][route.method.lower()]
    source = inspect.getsource(login)
    sent = name in vars(client) or re.search(rf"\b{name}\b[^()]*bearer=", source) is not None
    assert sent is bool(operation.get("security", official.get("security")))


def test_the_page_size_is_the_greatest_there_is(official: Any) -> None:
    parameters = official["paths"][client.SESSION_INVOICES.template]["get"]["parameters"]
    by_name = {parameter["name"]: parameter for parameter in parameters}
    assert by_name["pageSize"]["schema"]["maximum"] == client.PAGE_SIZE
    assert by_name["x-continuation-token"]["in"] == "header"
