"""Who asks: HTTP Basic, and a role that may."""

from typing import cast

from flask import g, request

from app import errors
from app.api.context import parts
from app.services.users import ROLES, Caller, authenticate


def require_role() -> None:
    """Before every view of a blueprint: Unauthorized, or Forbidden where the role is missing."""
    _authenticate()
    if caller().role not in ROLES:
        raise errors.Forbidden("This needs the role admin or technical.")


def require_admin() -> None:
    """Within a view: Forbidden for everybody but an admin."""
    if caller().role != "admin":
        raise errors.Forbidden("This needs the role admin.")


def caller() -> Caller:
    """The user who asks, known since `require_role`."""
    return cast(Caller, g.caller)


def _authenticate() -> None:
    given = request.authorization
    if given is None or given.type != "basic" or not given.username or given.password is None:
        raise errors.Unauthorized
    g.caller = authenticate(parts(), given.username, given.password)
