"""gunicorn as in production, but that a killed worker is replaced in a third of the time.

What the service takes from others is loaded before the workers are forked. Not prometheus_client,
which looks for its folder when it is loaded.
"""

import argon2  # noqa: F401
import flask_smorest  # noqa: F401
import orjson  # noqa: F401
import requests  # noqa: F401
import signxml  # noqa: F401
import werkzeug.serving  # noqa: F401

from app.gunicorn import *  # noqa: F403
