"""Figures for monitoring, from the database: the same whichever replica is asked."""

from collections.abc import Sequence
from typing import Any

from app.db.queries import metrics as queries
from app.services.parts import Parts


def by_environment(parts: Parts) -> Sequence[Any]:
    """For each environment: certificate_days (or None), refused_credentials, active_sessions,
    breaker_open. Nothing names a company."""
    return parts.db.rows(queries.by_environment)
