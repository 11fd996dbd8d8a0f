"""Pages of other sites, in a real browser that knows a user's password, before gunicorn.

The three ways in which a page can send a request in its reader's name: a form, a window it opens, a
script. From another host, which is another site, and from another port, which is the same one.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import pytest

from app.services.login import credentials
from tests.journeys.conftest import RunningService
from tests.journeys.test_load import status_path
from tests.service import PASSWORD, Company

NIP = "5265877635"
SIMULATION = '<input name="message" value="x"><input name="minutes" value="15">'


@pytest.fixture(params=["localhost", "127.0.0.1"], ids=["another site", "another port"])
def show(request: pytest.FixtureRequest, browser: Any) -> Iterator[Callable[[str], None]]:
    """Shows a page of another site, of which the body is given."""
    shown = [""]

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(f"<!doctype html><title>other</title>{shown[0]}".encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def show(body: str) -> None:
        shown[0] = body
        browser.get(f"http://{request.param}:{server.server_port}/")

    yield show
    server.shutdown()
    server.server_close()


@pytest.fixture
def user(browser: Any, server: RunningService, make_company: Any, control: Any) -> Company:
    """Its password is remembered by the browser. It can be logged in to KSeF, and in demo it is."""
    user: Company = make_company(NIP, environments=("demo",))
    credentials.store_token(user.account(), control.add_token("test", NIP))
    known = f"http://{quote(user.email)}:{quote(PASSWORD)}@"
    browser.get(f"{server.url.replace('http://', known)}/console?lang=en")
    assert "Overview" in browser.find_element("css selector", "h1").text
    control.clear_calls()
    return user


@pytest.fixture
def answered(server: RunningService) -> Callable[[str], int]:
    """Waits for the answer to a request by its method and route, and returns its status."""
    before = server.log.stat().st_size

    def status(request: str) -> int:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            for line in map(json.loads, server.log.read_bytes()[before:].splitlines()):
                if line["event"] == "request" and f"{line['method']} {line['route']}" == request:
                    return int(line["status"])
            time.sleep(0.05)
        raise AssertionError(f"{request} was not sent")

    return status


def nothing_was_done(control: Any, database: Any) -> bool:
    """KSeF was not asked, and there is neither a new session nor a simulation."""
    sessions = database.execute("SELECT environment::text FROM ksef_sessions")
    simulations = database.execute("SELECT FROM outage_simulations")
    return (control.calls(), sessions, simulations) == ([], [("demo",)], [])


@pytest.mark.parametrize(
    ("path", "route", "fields"),
    [
        ("/auth/test", "/auth/<environment>", ""),
        ("/console/demo/simulation", "/console/<environment>/simulation", SIMULATION),
    ],
    ids=["API", "console"],
)
def test_a_form(
    show: Any,
    user: Company,
    answered: Any,
    browser: Any,
    server: RunningService,
    control: Any,
    database: Any,
    path: str,
    route: str,
    fields: str,
) -> None:
    show(f'<form method="post" action="{server.url}{path}">{fields}<button>Win</button></form>')
    browser.find_element("css selector", "button").click()
    assert answered(f"POST {route}") == 403
    assert nothing_was_done(control, database)


@pytest.mark.parametrize("place", ["API", "console"])
def test_a_window(
    show: Any,
    user: Company,
    answered: Any,
    browser: Any,
    server: RunningService,
    control: Any,
    database: Any,
    place: str,
) -> None:
    path, route = status_path(control, user, "demo"), "/invoices/<environment>/status"
    route += "/<referenceNumber>"
    if place == "console":
        session = control.seed_session("demo", NIP, invoices=1)
        number = session.ksef_numbers[0]
        path = f"/console/demo/sessions/{session.reference_number}/{number}/upo.pdf"
        route = "/console/<environment>/sessions/<referenceNumber>/<ksefNumber>/upo.pdf"
    show(f"<button onclick=\"window.open('{server.url}{path}')\">Win</button>")
    first = browser.current_window_handle
    browser.find_element("css selector", "button").click()
    assert answered(f"GET {route}") == 403
    assert nothing_was_done(control, database)
    for window in browser.window_handles:
        if window != first:
            browser.switch_to.window(window)
            browser.close()
    browser.switch_to.window(first)


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("GET", "status", "/invoices/<environment>/status/<referenceNumber>"),
        ("POST", "/auth/test", "/auth/<environment>"),
        ("POST", "/console/demo/simulation", "/console/<environment>/simulation"),
    ],
    ids=["a question", "a login", "the console"],
)
def test_a_script(
    show: Any,
    user: Company,
    answered: Any,
    server: RunningService,
    control: Any,
    database: Any,
    method: str,
    path: str,
    route: str,
) -> None:
    if path == "status":
        path = status_path(control, user, "demo")
    show(
        f"<script>fetch('{server.url}{path}',"
        f" {{method: '{method}', mode: 'no-cors', credentials: 'include'}})</script>"
    )
    # Chromium gives the password to scripts of the same site only.
    assert answered(f"{method} {route}") in (401, 403)
    assert nothing_was_done(control, database)


def test_a_link_to_the_console(
    show: Any,
    user: Company,
    answered: Any,
    browser: Any,
    server: RunningService,
    control: Any,
    database: Any,
) -> None:
    show(f'<a href="{server.url}/console/demo/sessions">Sessions</a>')
    browser.find_element("css selector", "a").click()
    assert answered("GET /console/<environment>/sessions") == 200
    assert nothing_was_done(control, database)
