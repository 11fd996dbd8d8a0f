"""A real browser for pages: Chromium without a window, driven by Selenium.

| fixture | scope | gives |
|---|---|---|
| `chromium` | session | the running browser; the test is skipped where there is none |
| `browser` | test | the same, with an empty page, no cookie and an empty log |
"""

import json
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1600",
)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("needs Chromium and its chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    running.set_page_load_timeout(30)
    try:
        yield running
    finally:
        running.quit()


@pytest.fixture
def browser(chromium: Any) -> Any:
    chromium.get("about:blank")
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium.execute_cdp_cmd("Network.clearBrowserCache", {})
    for log in ("browser", "performance"):
        chromium.get_log(log)
    return chromium


def complaints(browser: Any) -> list[str]:
    """What the page wrote to its console as an error since this was last asked."""
    return [line["message"] for line in browser.get_log("browser") if line["level"] == "SEVERE"]


def hosts_asked(browser: Any) -> set[str]:
    """Host and port of every request that the page made since this was last asked.

    What needs no network (`data:`, `blob:`, `about:`) is left out.
    """
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        urlsplit(event["params"]["request"]["url"])
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return {url.netloc for url in asked if url.scheme in ("http", "https", "ws", "wss")}
