"""The addresses under which the sandbox answers; the modules with routes add theirs to these."""

from typing import Final

from flask import Blueprint

from sandbox.state import ENVIRONMENTS

ENVIRONMENT: Final = f"<any({','.join(ENVIRONMENTS)}):environment>"

ksef: Final = Blueprint("ksef", __name__, url_prefix=f"/{ENVIRONMENT}/v2")
storage: Final = Blueprint("storage", __name__, url_prefix=f"/{ENVIRONMENT}/storage")
latarnia: Final = Blueprint("latarnia", __name__, url_prefix=f"/latarnia/{ENVIRONMENT}")
control: Final = Blueprint("control", __name__, url_prefix="/_sandbox")
ALL: Final = (ksef, storage, latarnia, control)
