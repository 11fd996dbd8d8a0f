"""ksef-proxy: session status, row linking and UPOs from KSeF, for ERP systems.

`create_app` and `make_parts` are imported from `app.factory` only when they are used, so that code
which only reads or draws UPOs does not load the whole service.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.factory import create_app as create_app
    from app.factory import make_parts as make_parts


def __getattr__(name: str) -> Any:
    if name not in ("create_app", "make_parts"):
        raise AttributeError(f"module 'app' has no attribute {name!r}")
    from app import factory

    return getattr(factory, name)
