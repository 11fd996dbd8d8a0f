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

from app.services import outages
from app.services.parts import Place
from bench.rig import PASSWORD, PROJECT, Rig, started
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
        _prepare(rig)
        session = f"/prod/sessions/{_reference(rig, _BATCH)}"
        pictures = {
            "console-overview": ("", "en", DESKTOP, "light"),
            "console-environment": ("/prod", "en", DESKTOP, "light"),
            "console-session-dark": (session, "pl", DESKTOP, "dark"),
            "console-phone-overview": ("", "pl", PHONE, "light"),
            "console-phone-session": (f"{session}?show=rejected", "pl", PHONE, "dark"),
            "console-phone-environment": ("/demo", "pl", PHONE, "light"),
        }
        if "--all" in sys.argv:
            pictures |= {
                f"{name}-{language}-{width}-{scheme}": (path, language, width, scheme)
                for name, path in _pages(session)
                for language in ("pl", "en")
                for width in (DESKTOP, PHONE)
                for scheme in ("light", "dark")
            }
        for name, (path, language, width, scheme) in pictures.items():
            _show(browser, f"{service.url}/console{path}", language, width, scheme)
            size = _write(folder / f"{name}.png", _picture(browser, width))
            print(f"{name}.png  {size / 1024:.0f} kB")


def _pages(session: str) -> list[tuple[str, str]]:
    return [
        ("overview", ""),
        ("environment", "/prod"),
        ("simulated", "/demo"),
        ("outage", "/test"),
        ("session", session),
        ("sessions", "/prod/sessions"),
        ("unlinked", "/prod/unlinked"),
        ("search", "/search?number=FV/2026/09/001"),
        ("nothing", "/search?number=nothing"),
        ("error", "/nowhere/at/all"),
    ]


def _prepare(rig: Rig) -> None:
    seal = keys.make_seal(demo.NIP, demo.NAME)
    demo.prepare(rig.parts, rig.control, rig.dsn, PASSWORD, seal)
    outages.simulate(
        rig.parts, "demo", company_nip=demo.NIP, message="Próba trybu offline", ends_at=None
    )
    rig.execute(
        "UPDATE outages SET consecutive_failures = 7, failing_since = now() - interval '4 minutes',"
        " opened_at = now() - interval '3 minutes' WHERE environment = 'test'"
    )


def _reference(rig: Rig, begins: str) -> str:
    place = Place(demo.NIP, "prod")
    [(found,)] = rig.execute(
        "SELECT reference_number FROM kept_sessions"
        " WHERE company_nip = %(company_nip)s AND environment = %(environment)s"
        " AND reference_number LIKE %(begins)s",
        {**place.columns, "begins": f"{begins}%"},
    )
    return str(found)


@contextmanager
def _chromium(folder: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (*ARGUMENTS, f"--user-data-dir={folder / 'chromium'}"):
        options.add_argument(argument)
    driver = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=driver)
    try:
        credentials = base64.b64encode(f"{demo.EMAIL}:{PASSWORD}".encode()).decode()
        browser.execute_cdp_cmd("Network.enable", {})
        browser.execute_cdp_cmd(
            "Network.setExtraHTTPHeaders", {"headers": {"Authorization": f"Basic {credentials}"}}
        )
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
    paths = [Path(given) for given in sys.argv[1:] if not given.startswith("-")]
    main(paths[0] if paths else FOLDER)
