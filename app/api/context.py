"""What `create_app` gave the application, for the views."""

from typing import cast

from flask import current_app

from app.services.parts import Parts
from app.settings import Settings, SettingsError

EXTENSION = "ksef_proxy"


def parts() -> Parts:
    """The services' parts of this application."""
    return _given()[1]


def settings() -> Settings:
    """The settings of this application."""
    return _given()[0]


def _given() -> tuple[Settings, Parts]:
    found = current_app.extensions[EXTENSION]
    if isinstance(found, SettingsError):
        raise found
    return cast(tuple[Settings, Parts], found)
