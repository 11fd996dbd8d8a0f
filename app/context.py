"""What a request or a command works with: the settings, the service, the caller and its account."""

from typing import cast

from flask import current_app, g

from app.account import Account
from app.service import Service
from app.services.operators.users import Caller
from app.settings import Settings, SettingsError

EXTENSION = "ksef_proxy"


def service() -> Service:
    """The service of this application. Raises SettingsError if its settings were wrong (in a
    command)."""
    found = current_app.extensions[EXTENSION]
    if isinstance(found, SettingsError):
        raise found
    return cast(Service, found)


def settings() -> Settings:
    """The settings of this application. Raises SettingsError as `service` does."""
    return service().settings


def caller() -> Caller:
    """The authenticated user of this request; `basic_auth.require_role` must have run."""
    return cast(Caller, g.caller)


def account(environment: str) -> Account:
    """The caller's company in an environment."""
    return service().account(caller().company_nip, environment)
