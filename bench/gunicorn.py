"""gunicorn as in production, but that libraries are loaded before the workers are forked: a killed
one is replaced in a third of the time. Not prometheus_client, which looks for its folder then."""

import apispec.ext.marshmallow  # noqa: F401
import argon2  # noqa: F401
import msgspec  # noqa: F401
import requests  # noqa: F401
import signxml  # noqa: F401
import werkzeug.serving  # noqa: F401

from app.gunicorn import *  # noqa: F403
