"""Gives views and commands the settings and parts that `create_app` put into the application."""

from typing import cast

from flask import current_app

from app.services.parts import Parts
from app.settings import Settings, SettingsError

EXTENSION = "ksef_proxy"


def parts() -> Parts:
    """The parts of this application, which every service needs. Raises SettingsError."""
    return _given()[1]


def settings() -> Settings:
    """The settings of this application. Raises SettingsError if they were wrong (in a command)."""
    return _given()[0]


def _given() -> tuple[Settings, Parts]:
    found = current_app.extensions[EXTENSION]
    if isinstance(found, SettingsError):
        raise found
    return cast(tuple[Settings, Parts], found)
