"""The console in a real browser, before gunicorn, the sandbox KSeF and PostgreSQL."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from selenium.common.exceptions import WebDriverException

from app.services import outages
from app.services.sessions.check import check_session
from tests.browser import complaints, hosts_asked
from tests.journeys.conftest import RunningService
from tests.rows import add_synced
from tests.service import PASSWORD, Company

pytestmark = pytest.mark.slow

PATIENCE = 15  # seconds, for what the browser does by itself
PHONE = {"height": 844, "deviceScaleFactor": 1, "mobile": True}
DESKTOP = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}


@dataclass
class Console:
    """The console as one user sees it."""

    browser: Any
    url: str

    def open(self, path: str = "") -> None:
        self.browser.get(f"{self.url}/console{path}")

    @property
    def path(self) -> str:
        return str(self.browser.current_url).removeprefix(f"{self.url}/console").split("?")[0]

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements("css selector", selector))

    def click(self, text: str, within: str = "body") -> None:
        """Follow the link, or press the button, with this text, to another page."""
        [wanted] = [
            each for each in self.all(f"{within} a, {within} button") if each.text.strip() == text
        ]
        page = self.find("html")
        wanted.click()
        until(lambda: _is_gone(page))

    def text(self, selector: str = "main") -> str:
        return str(self.find(selector).text)

    def press(self, *keys: str) -> None:
        self.browser.switch_to.active_element.send_keys(*keys)

    def focused(self) -> str:
        """What is said of the element that has the focus."""
        element = self.browser.switch_to.active_element
        return str(
            element.get_attribute("aria-label") or element.text or element.get_attribute("name")
        )


# What a reader would have to push aside to see: not only what makes the whole page too wide.
_WIDER = """
return [...document.querySelectorAll("header *, main *, footer *")]
    .filter(each => !each.closest(".hidden, thead"))
    .filter(each => each.getBoundingClientRect().right > arguments[0] + 0.5)
    .map(each => each.outerHTML.slice(0, 200))
"""


def _is_gone(element: Any) -> bool:
    try:
        element.is_enabled()
    except WebDriverException:
        return True
    return False


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return found


@pytest.fixture
def console(browser: Any, server: RunningService) -> Iterator[Callable[[Company], Console]]:
    """The console for a user; in the end it has asked nobody else and complained of nothing."""

    def for_user(user: Company) -> Console:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", DESKTOP)
        # Remembered by the browser for every tab; a user may not be changed within one run.
        known = f"http://{quote(user.email)}:{quote(PASSWORD)}@"
        browser.get(f"{server.url.replace('http://', known)}/console?lang=en")
        return Console(browser, server.url)

    yield for_user
    # Of a PDF, which names none, the browser looks for an icon by itself.
    assert [line for line in complaints(browser) if "/favicon.ico" not in line] == []
    hosts = {host.rpartition("@")[2] for host in hosts_asked(browser)}
    assert hosts == {server.url.removeprefix("http://")}
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture
def session(company: Company, control: Any, database: Any) -> Any:
    """A batch of 130 invoices, three of them rejected, asked after and linked."""
    seeded = control.seed_session(
        "test", company.nip, kind="batch", invoices=[{} for _ in range(127)] + [{"status": 450}] * 3
    )
    add_synced(database, company.account(), seeded.ksef_numbers)
    check_session(company.account(), seeded.reference_number)
    return seeded


def test_from_the_cards_to_a_upo(
    console: Callable[[Company], Console], company: Company, session: Any, tmp_path: Path
) -> None:
    it = console(company)
    it.open()
    assert [card.text for card in it.all(".card h2")] == ["Production", "Demo", "Test"]
    assert "Available" in it.text("[aria-labelledby=test]")

    number = session.ksef_numbers[0]
    it.find("#number").send_keys(number)
    it.click("Search", "header")
    assert it.path == "/search"
    it.click(session.reference_number, "h3:first-of-type + table")
    assert it.path == f"/test/sessions/{session.reference_number}"
    assert len(it.all("tbody tr")) == 100

    it.click("Rejected 3")
    assert len(it.all("tbody tr")) == 3
    it.click("Accepted 127")
    it.click("Next →")
    assert len(it.all("tbody tr")) == 27
    assert "Page 2 of 2" in it.text()

    it.browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    it.find("a[download]").click()
    [file] = until(lambda: [*tmp_path.glob("*-upo.xml")])
    assert file.read_bytes().startswith(b"<?xml")

    overview = it.browser.current_window_handle
    it.find("a[target=_blank]").click()
    [other] = until(lambda: [w for w in it.browser.window_handles if w != overview])
    it.browser.switch_to.window(other)
    until(lambda: it.browser.current_url.endswith("/upo.pdf"))
    assert it.browser.execute_script("return document.contentType") == "application/pdf"
    it.browser.close()
    it.browser.switch_to.window(overview)


def test_the_language_stays(
    console: Callable[[Company], Console], company: Company, session: Any
) -> None:
    it = console(company)
    it.open(f"/test/sessions/{session.reference_number}")
    it.click("Polski")
    assert it.path == f"/test/sessions/{session.reference_number}"
    assert it.find("html").get_attribute("lang") == "pl"
    it.click("Przegląd")
    assert it.text("h1") == "Przegląd"
    it.click("English")
    assert it.text("h1") == "Overview"


def test_an_admin_rehearses_an_outage(
    console: Callable[[Company], Console], company: Company
) -> None:
    it = console(company)
    it.open("/demo")
    assert "Simulation" not in it.text(".head")
    it.find("[name=message]").clear()
    it.find("[name=message]").send_keys("Próba ąę")
    it.click("Begin the simulation")
    assert it.text("[role=status]") == "The simulation has begun."
    assert "Simulation" in it.text(".head")
    assert "Próba ąę" in it.text(".told")
    assert outages.current(company.account("demo")).source == "simulation"
    it.click("End the simulation")
    assert it.text("[role=status]") == "The simulation has ended."
    assert outages.current(company.account("demo")).source is None
    it.open("/prod")
    assert it.all("main form") == []


def test_after_the_logout_the_browser_knows_no_password(
    console: Callable[[Company], Console], company: Company
) -> None:
    """Without a window it cannot ask for another one, and shows no page at all."""
    it = console(company)
    it.open("/demo")
    assert company.email in it.browser.page_source
    it.click("Log out", "header")
    it.open("/demo")
    assert company.email not in it.browser.page_source
    told = complaints(it.browser)
    assert told
    assert all("401" in line for line in told)


def test_a_technical_user_has_no_switch(
    console: Callable[[Company], Console], make_company: Any
) -> None:
    it = console(make_company("5265877635", role="technical", logged_in=False))
    it.open("/demo")
    assert it.text("h1") == "Demo"
    assert it.all("main form") == []


def test_asking_ksef_on_purpose(
    console: Callable[[Company], Console], company: Company, control: Any
) -> None:
    seeded = control.seed_session("demo", company.nip, invoices=2)
    it = console(company)
    it.open(f"/search?number={seeded.reference_number}")
    it.click("Demo", "main")
    assert "No answer for this session is stored." in it.text()
    it.click("Check with KSeF now")
    assert it.text("[role=status]") == "KSeF was asked; this is its answer."
    assert len(it.all("tbody tr")) == 2


def test_with_the_keyboard_alone(
    console: Callable[[Company], Console], company: Company, session: Any
) -> None:
    tab, enter = "\ue004", "\ue007"
    it = console(company)
    it.open()
    it.press(tab)
    assert it.focused() == "Skip to content"
    shown = "return document.activeElement.getBoundingClientRect().top >= 0"
    assert it.browser.execute_script(shown)
    it.press(enter)
    assert it.browser.execute_script("return document.activeElement.id") == "content"
    it.open()
    for _ in range(60):
        it.press(tab)
        if it.focused() == session.reference_number:
            break
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert it.browser.execute_script(outline) == "solid"
    it.press(enter)
    until(lambda: it.path == f"/test/sessions/{session.reference_number}")
    for _ in range(60):
        it.press(tab)
        if it.focused().startswith("Rejected"):
            break
    it.press(enter)
    until(lambda: len(it.all("tbody tr")) == 3)


@pytest.mark.parametrize("width", [320, 390])
@pytest.mark.parametrize("language", ["pl", "en"])
def test_on_a_phone_nothing_is_cut_off(
    console: Callable[[Company], Console], company: Company, session: Any, language: str, width: int
) -> None:
    it = console(company)
    it.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**PHONE, "width": width})
    for path in (
        "",
        "/test",
        "/demo",
        "/test/sessions",
        "/test/unlinked",
        f"/test/sessions/{session.reference_number}",
        f"/test/sessions/{session.reference_number}?show=rejected",
        f"/search?number={session.ksef_numbers[0]}",
    ):
        it.open(f"{path}{'&' if '?' in path else '?'}lang={language}")
        assert it.browser.execute_script(_WIDER, width) == [], path
        found = it.browser.execute_script("return document.documentElement.scrollWidth")
        assert found == width, path
