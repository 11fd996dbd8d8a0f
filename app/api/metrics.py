"""GET /metrics, for Prometheus."""

from collections.abc import Iterable, Sequence
from typing import Any

from flask import Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app.api.basic_auth import require_role
from app.api.blueprint import Blueprint
from app.api.context import parts, settings
from app.services.metrics import by_environment

MEDIA_TYPE = "text/plain"
_GAUGES = {
    "certificate_days": "Days until the first of the stored KSeF certificates ends",
    "refused_credentials": "Stored credentials that KSeF refuses",
    "active_sessions": "Companies that are logged in to KSeF",
    "breaker_open": "1 while KSeF is known to be down",
}


def _require_role_unless_public() -> None:
    if not settings().metrics_public:
        require_role()


blueprint = Blueprint(
    "metrics", description="Figures for monitoring", guard=_require_role_unless_public
)


@blueprint.route("/metrics")
@blueprint.takes()
@blueprint.answers({"type": "string"}, "Prometheus' text format", content_type=MEDIA_TYPE)
@blueprint.problems()
def metrics(_query: dict[str, str]) -> Response:
    """Figures for Prometheus.

    Gauges by environment; no label names a company. Public where `METRICS_PUBLIC=1`.
    """
    registry = CollectorRegistry()
    registry.register(_ByEnvironment(by_environment(parts())))
    return Response(generate_latest(registry), mimetype=MEDIA_TYPE)


class _ByEnvironment(Collector):
    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for name, words in _GAUGES.items():
            gauge = GaugeMetricFamily(f"ksef_proxy_{name}", words, labels=["environment"])
            for row in self._rows:
                if (value := getattr(row, name)) is not None:
                    gauge.add_metric([row.environment], float(value))
            yield gauge
