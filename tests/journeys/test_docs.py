"""GET /docs in a real browser: the contract can be read and tried, and nobody else is asked."""

from typing import Any

import pytest
import requests
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions as seen
from selenium.webdriver.support.wait import WebDriverWait

from app.api.examples import SESSION
from tests.browser import complaints, hosts_asked
from tests.service import PASSWORD, Company

SESSION_STATUS = "operations-status-sessionStatus"


@pytest.fixture
def docs(browser: Any, server: Any) -> Any:
    """The page, once the contract is drawn."""
    browser.get(f"{server.url}/docs")
    shows(browser, f"#{SESSION_STATUS}")
    return browser


def shows(browser: Any, css: str) -> Any:
    """The element, as soon as it can be seen."""
    return WebDriverWait(browser, 20).until(
        seen.visibility_of_element_located((By.CSS_SELECTOR, css))
    )


def click(browser: Any, css: str) -> None:
    WebDriverWait(browser, 20).until(seen.element_to_be_clickable((By.CSS_SELECTOR, css))).click()


@pytest.mark.slow
def test_the_contract_is_drawn_from_this_service_alone(
    docs: Any, server: Any, http: requests.Session
) -> None:
    drawn = docs.find_elements(By.CSS_SELECTOR, ".opblock")
    described = http.get(f"{server.url}/openapi.json", timeout=20).json()["paths"].values()
    assert len(drawn) == len([name for item in described for name in item if name != "parameters"])
    assert "Polling." in docs.find_element(By.CSS_SELECTOR, ".info").text
    click(docs, f"#{SESSION_STATUS} .opblock-summary-control")
    assert "session_not_found" in shows(docs, f"#{SESSION_STATUS} .responses-wrapper").text
    assert complaints(docs) == []
    assert hosts_asked(docs) == {server.url.removeprefix("http://")}


@pytest.mark.slow
def test_it_can_be_tried_with_basic_auth(
    docs: Any, server: Any, company: Company, control: Any
) -> None:
    session = control.seed_session("test", company.nip, invoices=1)
    click(docs, ".btn.authorize")
    shows(docs, "#auth-basic-username").send_keys(company.email)
    shows(docs, "#auth-basic-password").send_keys(PASSWORD)
    click(docs, ".modal-btn.authorize")
    click(docs, ".btn-done")
    click(docs, f"#{SESSION_STATUS} .opblock-summary-control")
    number = shows(docs, "tr[data-param-name=referenceNumber] input")
    assert number.get_attribute("value") == SESSION  # there under `make run`
    number.clear()
    number.send_keys(session.reference_number)
    click(docs, f"#{SESSION_STATUS} .btn.execute")
    answer = shows(docs, f"#{SESSION_STATUS} .live-responses-table .response").text
    assert answer.startswith("200")
    assert session.ksef_numbers[0] in answer
    assert complaints(docs) == []
    assert hosts_asked(docs) == {server.url.removeprefix("http://")}


def test_no_script_of_others_would_run(docs: Any) -> None:
    docs.execute_script(
        "const script = document.createElement('script');"
        "script.textContent = 'window.foreign = true'; document.body.append(script);"
    )
    assert docs.execute_script("return window.foreign") is None
    assert "Content Security Policy" in complaints(docs)[0]
