"""The files of deploy/ fit each other and the service, as far as can be told without running them.

nginx's run in tests/journeys/test_upgrade.py.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import worker
from app.api.blueprint import LONGEST_BODY
from app.cli import COMMANDS
from app.cli.follow import follow
from tests.api.test_policy import setting_names

PROJECT = Path(__file__).parents[1]
DEPLOY = PROJECT / "deploy"


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((DEPLOY / "docker/compose.yml").read_text("utf-8"))["services"]


def test_compose_hands_over_settings_that_there_are(compose: Any) -> None:
    for name in ("migrate", "ksef-proxy-1", "ksef-proxy-2", "follow"):
        assert set(compose[name]["environment"]) <= setting_names()


def test_compose_mounts_files_that_there_are(compose: Any) -> None:
    for service in compose.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith(".") and "tls/" not in source:
                assert (DEPLOY / "docker" / source).is_file(), source


def test_nginx_and_replicas_of_compose_know_each_others_addresses(compose: Any) -> None:
    def address(name: str) -> str:
        return str(compose[name]["networks"]["default"]["ipv4_address"])

    known = re.findall(r"server ([\d.]+):8080", (DEPLOY / "docker/replicas.conf").read_text())
    replicas = [name for name in compose if name.startswith("ksef-proxy")]
    assert [address(name) for name in replicas] == known
    for name in replicas:
        assert compose[name]["environment"]["FORWARDED_ALLOW_IPS"] == address("nginx")


def test_prometheus_asks_each_replica_and_knows_the_alerts(compose: Any) -> None:
    asked = {}
    for folder in ("docker", "prometheus"):
        config = yaml.safe_load((DEPLOY / folder / "prometheus.yml").read_text("utf-8"))
        [job] = config["scrape_configs"]
        assert (job["job_name"], config["rule_files"]) == ("ksef-proxy", ["alerts.yml"])
        asked[folder] = job["static_configs"][0]["targets"]
    replicas = [name for name in compose if name.startswith("ksef-proxy")]
    addresses = [compose[name]["networks"]["default"]["ipv4_address"] for name in replicas]
    assert asked["docker"] == [f"{address}:8080" for address in addresses]
    assert {compose[name]["environment"]["METRICS_PUBLIC"] for name in replicas} == {"1"}
    nginx = (DEPLOY / "nginx/ksef-proxy-replicas.conf").read_text("utf-8")
    assert asked["prometheus"] == re.findall(r"server ([\d.:]+) ", nginx)


def test_compose_makes_both_roles_with_passwords_that_it_hands_over(compose: Any) -> None:
    script = (DEPLOY / "docker/roles.sh").read_text("utf-8")
    assert re.findall(r"CREATE ROLE (\w+) LOGIN PASSWORD :'(\w+)'", script) == [
        ("ksef_proxy", "service"),
        ("erp", "erp"),
    ]
    used = re.findall(r'--set=\w+="\$(\w+)"', script)
    assert used == ["DATABASE_PASSWORD", "ERP_PASSWORD"]
    assert set(used) <= set(compose["postgres"]["environment"])


def test_nginx_worker_and_application_take_bodies_of_the_same_length() -> None:
    nginx = (DEPLOY / "nginx/ksef-proxy.conf").read_text("utf-8")
    assert f"client_max_body_size {LONGEST_BODY}k;" in nginx
    assert worker.LONGEST == LONGEST_BODY * 2**10


def test_nginx_keeps_browsers_to_https_in_every_answer() -> None:
    """A header added in a location would take the place of those of the server."""
    nginx = (DEPLOY / "nginx/ksef-proxy.conf").read_text("utf-8")
    [added] = re.findall(r"^( *)add_header (.+);$", nginx, re.MULTILINE)
    assert added == ("    ", 'Strict-Transport-Security "max-age=31536000" always')


def test_image_is_made_of_files_that_are_let_in() -> None:
    dockerfile = (DEPLOY / "docker/Dockerfile").read_text("utf-8")
    ignored = (DEPLOY / "docker/Dockerfile.dockerignore").read_text("utf-8")
    copied = re.findall(r"^COPY (?!--from)(\S+)", dockerfile, re.MULTILINE)
    assert "app" in copied
    assert sorted(copied) == sorted(re.findall(r"^!(\S+)", ignored, re.MULTILINE))
    assert all((PROJECT / name).exists() for name in copied)


def test_everybody_starts_it_in_the_same_way() -> None:
    """By the entry that looks at the settings first; no shell stays in between."""
    starts = {
        "Makefile": "\t@exec .venv/bin/ksef-proxy serve\n",
        "deploy/systemd/ksef-proxy@.service": (
            "ExecStart=/opt/ksef-proxy/.venv/bin/ksef-proxy serve\n"
        ),
        "deploy/docker/Dockerfile": 'CMD ["ksef-proxy", "serve"]\n',
    }
    for file, line in starts.items():
        text = (PROJECT / file).read_text("utf-8")
        assert line in text, file
        assert "bin/gunicorn" not in text, file


def test_units_are_shut_in_alike() -> None:
    texts = [file.read_text("utf-8") for file in sorted((DEPLOY / "systemd").iterdir())]
    assert len(texts) == 2
    one, other = ({*text.split("\n# It reads its folder")[1].splitlines()} for text in texts)
    assert one == other


def test_what_is_followed_is_followed_by_a_command_that_there_is(compose: Any) -> None:
    unit = (DEPLOY / "systemd/ksef-proxy-follow.service").read_text("utf-8")
    [started] = re.findall(r"^ExecStart=\S+/bin/(.+)$", unit, re.MULTILINE)
    assert started.split() == compose["follow"]["command"] == ["ksef-proxy", "follow"]
    assert follow in COMMANDS


@pytest.mark.parametrize("name", ["ksef-proxy@", "ksef-proxy-follow"])
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_takes_the_unit(name: str, tmp_path: Path) -> None:
    unit = (DEPLOY / f"systemd/{name}.service").read_text("utf-8")
    installed = tmp_path / f"{name}8081.service".replace("follow8081", "follow")
    installed.write_text(unit.replace("/opt/ksef-proxy/.venv/bin/ksef-proxy", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", installed], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
