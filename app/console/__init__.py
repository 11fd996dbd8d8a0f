"""The operator console: HTML pages that show what is in the database. No script, no build step.

It has the same HTTP Basic authentication and roles as the API. Viewing pages never asks KSeF;
checking a session and fetching a UPO may, exactly as they do in the API.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from flask import Flask, Response
from jinja2 import StrictUndefined

from app.console import pages as _pages  # noqa: F401 - they add themselves to the blueprint
from app.console.blueprint import blueprint
from app.console.context import EXTENSION
from app.console.forms import FormTokens

_STYLE = (Path(__file__).parent / "style.css").read_bytes()
STYLE_VERSION = hashlib.sha256(_STYLE).hexdigest()[:12]


def register(app: Flask, form_keys: Sequence[bytes]) -> None:
    """Add the console to the application.

    `form_keys` sign the tokens of its forms: the first one signs, all of them are accepted.
    """
    app.extensions[EXTENSION] = FormTokens(form_keys)
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals["style_version"] = STYLE_VERSION
    app.register_blueprint(blueprint)
    app.add_url_rule("/console/style.css", "console_style", _style)


def _style() -> Response:
    """The style sheet. It is public: it holds no data, and the page of a 401 needs it."""
    response = Response(_STYLE, content_type="text/css; charset=utf-8")
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return response
