"""The console's blueprint: who is let in, from where, and with which parameters."""

from functools import partial

from flask import Blueprint, request
from werkzeug.exceptions import NotFound

from app import errors
from app.api import basic_auth
from app.api.blueprint import takes as _takes
from app.api.origin import is_of_our_own
from app.console import problems
from app.console.context import finish, form_tokens
from app.console.forms import FIELD
from app.console.schemas import Looking
from app.context import caller
from app.settings import ENVIRONMENTS

# Other sites may link to these: they show what is stored, and never ask KSeF.
_LINKED = {
    f"console.{page}"
    for page in (
        "overview",
        "with_slash",
        "find",
        "environment",
        "sessions",
        "unlinked",
        "session",
        "nowhere",
    )
}

blueprint = Blueprint("console", __name__, template_folder="templates")
takes = partial(_takes, unless_query=Looking)


@blueprint.before_request
def _guard() -> None:
    basic_auth.require_role(linked=request.endpoint in _LINKED)
    if (request.view_args or {}).get("environment", "test") not in ENVIRONMENTS:
        raise NotFound  # such a page cannot be: what else is wrong is the reader's number
    if request.method == "POST":
        _require_own_form()


def _require_own_form() -> None:
    request.get_data()  # before the form is parsed, or the parser of `takes` finds no bytes left
    if not is_of_our_own(request):
        raise errors.Forbidden("The form was not sent from the console.")
    if not form_tokens().is_good(request.form.get(FIELD, ""), caller().email):
        raise errors.Forbidden("The form's token is missing, too old, or another user's.")


blueprint.after_request(finish)
problems.register(blueprint)
