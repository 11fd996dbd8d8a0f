"""Builds the application: the only module that knows all of its parts."""

from contextlib import suppress

from flask import Flask

from app import api, cli, console, errors, meters, settings, telemetry
from app.context import EXTENSION
from app.crypto import derived_key
from app.service import Service
from app.services import outages
from app.settings import Settings


def create_app(given: Settings | None = None) -> Flask:
    """The Flask application, with settings from the environment unless given.

    Does not connect to the database. Raises SettingsError if settings are missing or invalid; while
    a command runs, the error is kept and raised only if the command needs settings.
    """
    app = Flask("app", static_folder=None)
    cli.register(app)
    try:
        chosen = given or settings.from_environment()
    except settings.SettingsError as error:
        if not cli.is_running():
            raise
        app.extensions[EXTENSION] = error
        return app
    telemetry.configure(chosen.log_level)
    app.extensions[EXTENSION] = Service(chosen)
    api.register(app)
    meters.http_threads.set(chosen.web_threads)
    console.register(app, [derived_key(key, "console forms") for key in chosen.secret_keys])
    return app


def report_at_start(app: Flask) -> None:
    """Warn, when a worker starts, of what an operator should know, if the database answers."""
    with suppress(errors.Unavailable):
        outages.report_forbidden(app.extensions[EXTENSION].db)
