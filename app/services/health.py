"""Whether the service can do its work."""

from collections.abc import Sequence

from app.db.migrate import pending
from app.services.parts import Parts


def pending_migrations(parts: Parts) -> Sequence[str]:
    """Names of the migrations not applied yet; Unavailable if the database cannot be asked."""
    with parts.db.transaction() as connection:
        return pending(connection)
