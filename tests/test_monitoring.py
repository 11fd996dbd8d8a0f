"""What deploy/ tells Prometheus and Grafana fits the metrics that there are, and so do the docs."""

import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from app import meters
from app.services.operators.figures import HELP
from tests.pages import OPERATORS

PROJECT = Path(__file__).parents[1]
ALERTS = PROJECT / "deploy/prometheus/alerts.yml"
DASHBOARD = PROJECT / "deploy/grafana/ksef-proxy.json"
NAME = re.compile(r"\bksef_proxy_\w+")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")


def metrics() -> dict[str, str]:
    """The names that are exposed, with their types; that of a histogram without its endings."""
    counted = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in meters.OF_THIS_PROCESS.collect()
    }
    return counted | {f"ksef_proxy_{name}": "gauge" for name in HELP}


def series() -> set[str]:
    """The names as PromQL uses them."""
    endings = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + end for name, kind in metrics().items() for end in endings.get(kind, ("",))}


def expressions() -> list[str]:
    """The PromQL of every panel, with Grafana's variables filled in."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    return [
        target["expr"].replace("$__rate_interval", "5m").replace("$job", "ksef-proxy")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]


def run(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_metric_stands_in_the_docs_and_no_other() -> None:
    assert set(NAME.findall(OPERATORS.section("Metrics"))) == set(metrics())


def test_alerts_and_panels_name_what_there_is() -> None:
    named = set(NAME.findall(ALERTS.read_text("utf-8")))
    shown = set(NAME.findall(" ".join(expressions())))
    assert len(named) > 5
    assert len(shown) > 5
    assert (named | shown) - series() == set()


def test_every_alert_says_what_it_means_and_how_urgent_it_is() -> None:
    [group] = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]


def test_panels_are_apart_and_each_has_its_data() -> None:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@needs_promtool
def test_promtool_takes_the_alerts_and_their_tests() -> None:
    for command in (("check", "rules", ALERTS), ("test", "rules", ALERTS.with_suffix(".test.yml"))):
        done = run("promtool", *command)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_parses_every_panel(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": text} for n, text in enumerate(expressions())]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = run("promtool", "check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_worker_that_starts_does_not_spoil_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is empty for a moment."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    begun = tmp_path / "counter_1.db"
    begun.touch()
    threading.Timer(0.03, begun.unlink).start()
    assert meters.exposition(CollectorRegistry()) == b""
