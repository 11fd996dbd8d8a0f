"""GET /metrics"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app import create_app
from app.api.context import EXTENSION
from app.settings import Settings
from tests.service import Company


def gauges(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels["environment"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_days_of_the_certificate_that_ends_first(company: Company, database: Any) -> None:
    ends = datetime.now(UTC) + timedelta(days=12)
    database.execute(
        "UPDATE ksef_credentials SET method = 'certificate',"
        f" certificate_valid_until = '{ends.isoformat()}' WHERE environment = 'demo'"
    )
    answer = company.get("/metrics")
    assert answer.mimetype == "text/plain"
    found = gauges(answer.text)
    assert found["ksef_proxy_certificate_days", "demo"] == pytest.approx(12, abs=0.01)
    assert ("ksef_proxy_certificate_days", "test") not in found
    assert found["ksef_proxy_active_sessions", "test"] == 1
    assert found["ksef_proxy_refused_credentials", "test"] == 0
    assert found["ksef_proxy_breaker_open", "prod"] == 0
    assert company.nip not in answer.text


def test_public_only_by_the_setting(company: Company, settings: Settings) -> None:
    assert company.client.get("/metrics").status_code == 401
    app = create_app(replace(settings, metrics_public=True))
    assert app.test_client().get("/metrics").status_code == 200
    app.extensions[EXTENSION][1].db.close()
