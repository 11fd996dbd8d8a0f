"""GET /docs: the contract in Swagger UI, to read and to try; all files come from this service."""

from functools import partial
from pathlib import Path

import flask_swagger_ui
from flask import Blueprint, Response, send_from_directory

from app.api.blueprint import refuse_query

_OURS = Path(__file__).with_name("swagger_ui")
_SWAGGER_UI = Path(flask_swagger_ui.__file__).with_name("dist")
_FILES = {
    "start.js": _OURS,
    "swagger-ui-bundle.js": _SWAGGER_UI,
    "swagger-ui.css": _SWAGGER_UI,
    "favicon-32x32.png": _SWAGGER_UI,
}
# Nothing inline and nothing from other hosts; Swagger UI's pictures are data: URLs in its CSS.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

blueprint = Blueprint("docs", __name__)
blueprint.before_request(refuse_query)


@blueprint.get("/docs")
def page() -> Response:
    """The page. It needs no password, but the calls that are tried on it do."""
    return _file(_OURS, "index.html")


def _file(folder: Path, name: str) -> Response:
    response = send_from_directory(folder, name)
    response.headers["Content-Security-Policy"] = _POLICY
    return response


for _name, _folder in _FILES.items():
    _view = partial(_file, _folder, _name)
    blueprint.add_url_rule(f"/docs/{_name}", _name.replace(".", "-"), _view)
