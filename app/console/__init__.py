"""The operator console: HTML pages over what the database knows. No script, no build step.

The same Basic auth and roles as the API. Looking never asks KSeF; checking a session and fetching
a UPO may, as they do in the API, in the same order of checks.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from flask import Flask, Response
from jinja2 import StrictUndefined

from app.console import pages
from app.console.context import EXTENSION
from app.console.forms import FormTokens

_STYLE = (Path(__file__).parent / "style.css").read_bytes()
STYLE_VERSION = hashlib.sha256(_STYLE).hexdigest()[:12]


def register(app: Flask, form_keys: Sequence[bytes]) -> None:
    """Give the application its console; `form_keys` sign its forms, the first one newly."""
    app.extensions[EXTENSION] = FormTokens(form_keys)
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals["style_version"] = STYLE_VERSION
    app.register_blueprint(pages.blueprint)
    app.add_url_rule("/console/style.css", "console_style", _style)


def _style() -> Response:
    """Public: it holds no data, and error pages need it."""
    response = Response(_STYLE, content_type="text/css; charset=utf-8")
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return response
