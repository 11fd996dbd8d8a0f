"""What `create_app` gave the application, for the views."""

from typing import cast

from flask import current_app

from app.services.parts import Parts
from app.settings import Settings

EXTENSION = "ksef_proxy"


def parts() -> Parts:
    """The services' parts of this application."""
    return cast(tuple[Settings, Parts], current_app.extensions[EXTENSION])[1]


def settings() -> Settings:
    """The settings of this application."""
    return cast(tuple[Settings, Parts], current_app.extensions[EXTENSION])[0]
