"""`make screenshots`: the console's pages in docs/images, from the demo's data, as a browser shows
them. Needs Chromium and its chromedriver."""

import base64
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver

from app.service import Service
from app.settings import from_environment
from bench.rig import PASSWORD, PROJECT, Rig, basic, started
from sandbox import demo, keys
from tests.browser import ARGUMENTS

FOLDER = PROJECT / "docs" / "images"
DESKTOP, PHONE = 1280, 390
_COLOURS = 256
_BATCH = "20260909-SB"


def main(folder: Path) -> None:
    """Make the demo, serve it, and write every picture."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        started() as rig,
        tempfile.TemporaryDirectory() as scratch,
        rig.serve(Path(scratch)) as service,
        _chromium(Path(scratch)) as browser,
    ):
        session = _prepare(rig)
        pictures = {
            "console-overview": ("", "en", DESKTOP, "light"),
            "console-environment": ("/prod", "en", DESKTOP, "light"),
            "console-session-dark": (session, "pl", DESKTOP, "dark"),
            "console-phone-overview": ("", "pl", PHONE, "light"),
            "console-phone-session": (f"{session}?show=rejected", "pl", PHONE, "dark"),
            "console-phone-environment": ("/demo", "pl", PHONE, "light"),
        }
        for name, (path, language, width, scheme) in pictures.items():
            _show(
                browser, f"http://127.0.0.1:{service.port}/console{path}", language, width, scheme
            )
            size = _write(folder / f"{name}.png", _picture(browser, width))
            print(f"{name}.png  {size / 1024:.0f} kB")


def _prepare(rig: Rig) -> str:
    """Make the demo, with an outage and a simulated one; returns the path of its batch."""
    service = Service(from_environment(rig.environment))
    seal = keys.make_seal(demo.NIP, demo.NAME)
    demo.prepare(service, rig.control, rig.server.dsn(), PASSWORD, seal)
    rig.command("follow", "--once")
    message = ("--message", "Próba trybu offline", "--nip", demo.NIP)
    rig.command("outage", "simulate", "demo", *message)
    rig.execute(
        "UPDATE outages SET consecutive_failures = 7, failing_since = now() - interval '4 minutes',"
        " opened_at = now() - interval '3 minutes' WHERE environment = 'test'"
    )
    [(reference,)] = rig.execute(
        "SELECT reference_number FROM kept_sessions WHERE company_nip = %s"
        " AND environment = 'prod' AND reference_number LIKE %s",
        (demo.NIP, f"{_BATCH}%"),
    )
    return f"/prod/sessions/{reference}"


@contextmanager
def _chromium(folder: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (*ARGUMENTS, f"--user-data-dir={folder / 'chromium'}"):
        options.add_argument(argument)
    driver = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=driver)
    try:
        browser.execute_cdp_cmd("Network.enable", {})
        browser.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": basic(demo.EMAIL)})
        yield browser
    finally:
        browser.quit()


def _show(browser: Any, url: str, language: str, width: int, scheme: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width == PHONE},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.get(f"{url}{'&' if '?' in url else '?'}lang={language}")


def _picture(browser: Any, width: int) -> bytes:
    """The page from its top, as far as it is worth showing."""
    height = browser.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, 1500), "scale": 1}
    shot = browser.execute_cdp_cmd(
        "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True}
    )
    return base64.b64decode(shot["data"])


def _write(file: Path, png: bytes) -> int:
    """With few colours, so that it is small; its size in bytes."""
    picture: Image.Image = Image.open(io.BytesIO(png)).convert("RGB")
    picture = picture.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture.save(file, optimize=True)
    return file.stat().st_size


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
