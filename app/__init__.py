"""ksef-proxy: session status, row linking and UPOs from KSeF, for ERP systems.

`create_app` is imported from `app.factory` only when it is used, so that code which only reads or
draws UPOs does not load the whole service.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.factory import create_app as create_app


def __getattr__(name: str) -> Any:
    if name != "create_app":
        raise AttributeError(f"module 'app' has no attribute {name!r}")
    from app import factory

    return getattr(factory, name)
