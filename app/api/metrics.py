"""GET /metrics, for Prometheus."""

from collections.abc import Iterable, Sequence

from flask import Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app import meters
from app.api.basic_auth import require_role
from app.api.blueprint import Blueprint, takes
from app.context import service, settings
from app.services.operators.figures import HELP, Figure, figures

MEDIA_TYPE = "text/plain"


def _require_role_unless_public() -> None:
    if not settings().metrics_public:
        require_role()


blueprint = Blueprint(
    "metrics", description="Figures for monitoring", guard=_require_role_unless_public
)


@blueprint.route("/metrics")
@takes()
@blueprint.answers(None, "Prometheus' text format", also={MEDIA_TYPE: {"type": "string"}})
@blueprint.problems()
def prometheus() -> Response:
    """Figures for Prometheus.

    What this replica has counted, and what all have in common; no label names a company. Public
    where `METRICS_PUBLIC=1`.
    """
    body = meters.exposition(
        _Shared(list(figures(service().db, service().timing, settings().quota_share)))
    )
    return Response(body, content_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Shared(Collector):
    def __init__(self, found: Sequence[Figure]) -> None:
        self._found = found

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for name, words in HELP.items():
            of_name = [figure for figure in self._found if figure.name == name]
            if not of_name:
                continue
            labels = list(of_name[0].labels)
            gauge = GaugeMetricFamily(f"{meters.PREFIX}_{name}", words, labels=labels)
            for figure in of_name:
                gauge.add_metric(list(figure.labels.values()), float(figure.value))
            yield gauge
