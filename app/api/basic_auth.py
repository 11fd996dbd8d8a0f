"""Authentication by HTTP Basic, and the role that a call needs."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from flask import g, request

from app import callers, errors, telemetry
from app.api.client_address import client_address
from app.api.origin import is_of_another_site
from app.context import caller, service, settings
from app.services.operators import audit
from app.services.operators.users import ROLES, authenticate, hash_of_name

CHALLENGE = 'Basic realm="ksef-proxy", charset="UTF-8"'
View = TypeVar("View", bound=Callable[..., Any])


def require_role(*, linked: bool = False) -> None:
    """Authenticate the caller, before every view of a blueprint.

    Raises Unauthorized, or Forbidden if its role is none that may use the service, or another
    site's page sent the request; `linked`: other sites may lead browsers there.
    """
    _authenticate()
    if caller().role not in ROLES:
        raise errors.Forbidden("This needs the role admin or technical.")
    if not linked and is_of_another_site(request):
        raise errors.Forbidden("Another site's page sent this request.")


def admins_only(view: View) -> View:
    """A decorator: Forbidden for everybody but an admin, before parameters are looked at."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if caller().role != "admin":
            raise errors.Forbidden("This needs the role admin.")
        return view(*args, **kwargs)

    return cast(View, guarded)


def stranger() -> dict[str, str]:
    """Who was refused, for the log: the address, and a hash of the user name."""
    told = {"address": _address()}
    if request.authorization and (name := request.authorization.username):
        told["userHash"] = hash_of_name(settings().secret_keys[0], name)
    return told


def _address() -> str:
    return client_address(
        request.remote_addr or "",
        request.headers.get("X-Forwarded-For", ""),
        settings().forwarded_allow_ips,
    )


def _authenticate() -> None:
    given = request.authorization
    if given is None or given.type != "basic" or not given.username or given.password is None:
        raise errors.Unauthorized
    address = _address()
    works = service()
    g.caller = authenticate(
        works.db, works.passwords, works.timing, given.username, given.password, address=address
    )
    callers.verified(request.headers["Authorization"])
    audit.actor.set(audit.Actor(g.caller.email, address or None, telemetry.request_id.get()))
