"""The ten steps of docs/operators.md are typed as they stand there, up to the first answers.

In place of Debian's files stands a folder, and what starts processes is played: `systemctl` reads
the units and starts what they say. PostgreSQL, nginx, gunicorn and the commands are real.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import requests
import yaml

from sandbox import postgres
from sandbox.control import Control
from tests import certificates
from tests.faults.test_tls_and_proxy import Ca
from tests.faults.test_tls_and_proxy import ca as ca
from tests.journeys.conftest import free_port
from tests.journeys.test_recovery import EMBEDDED
from tests.journeys.test_upgrade import NGINX, nginx_around
from tests.pages import OPERATORS, PROJECT

NIP = "5265877635"
DEPLOY = PROJECT / "deploy"
pytestmark = [pytest.mark.skipif(NGINX is None, reason="needs nginx"), pytest.mark.slow]

NOTHING = "#!/bin/sh\n"
COMMAND = """#!/bin/sh
exec env PYTHONPATH={project} {python} -P -m app "$@"
"""
RUNUSER = """#!/bin/sh
shift 3  # -u postgres --
PGHOST={socket} PGUSER=postgres exec "$@"
"""
NGINX_COMMAND = """#!/bin/sh
exec {nginx} -e {root}/nginx.log -c {root}/nginx.conf "$@"
"""
# Starts what a unit says as systemd would, once its service is ready.
SYSTEMCTL = """#!{python}
import os, re, shlex, subprocess, sys, time, urllib.request
from pathlib import Path
sys.path.insert(0, "{project}")
from app import env_file

def start(name):
    base, _, instance = name.partition("@")
    unit = Path("{root}/etc/systemd/system", base + ("@" if instance else "") + ".service")
    settings = re.findall(r"^(\\w+)=(.*)$", unit.read_text().replace("%i", instance), re.MULTILINE)
    values = dict(settings)
    environment = {{"PATH": os.environ["PATH"]}}
    environment |= env_file.read(Path(values["EnvironmentFile"]))
    for key, value in settings:
        if key == "Environment":
            environment |= dict(one.split("=", 1) for one in shlex.split(value))
    process = subprocess.Popen(
        shlex.split(values["ExecStart"]),
        env=environment,
        cwd=values["WorkingDirectory"],
        stdout=subprocess.DEVNULL,
        stderr=open("{root}/" + name + ".log", "w"),
        start_new_session=True,
    )
    with open("{root}/pids", "a") as pids:
        print(process.pid, file=pids)
    while values.get("Type") == "notify":
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{{instance}}/readyz")
        except OSError:
            time.sleep(0.1)
            assert process.poll() is None, name

match sys.argv[1:]:
    case ["daemon-reload"]:
        pass
    case ["enable", "--now", *names]:
        for name in names:
            start(name)
    case ["reload", "nginx"]:
        subprocess.run(["nginx"], check=True)
    case ["restart", "prometheus"]:
        pass
    case others:
        sys.exit(f"systemctl {{others}}")
"""


@dataclass
class Machine:
    """A machine on which the steps were typed; `printed`: all that they wrote."""

    root: Path
    url: str
    printed: str


def steps() -> str:
    """The commands of the ten steps, as one script."""
    section = OPERATORS.text.split("## Production in ten steps\n")[1].split("\n## ")[0]
    assert re.findall(r"^\*\*(\d+)\. ", section, re.MULTILINE) == [str(n) for n in range(1, 11)]
    return "".join(re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))


def changed(text: str, changes: Mapping[str, str]) -> str:
    """The text with something else in place of each pattern; all must be there."""
    for pattern, value in changes.items():
        text, found = re.subn(pattern, lambda _, value=value: value, text)
        assert found, pattern
    return text


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, sandbox: Any, control: Control, ca: Ca) -> Iterator[Machine]:
    root, port, replicas = tmp_path / "root", free_port(), [str(free_port()), str(free_port())]
    places = r"/(?=(?:etc|opt|var|root|usr/local)/)"

    def moved(text: str) -> str:
        text = text.replace("8081", replicas[0]).replace("8082", replicas[1])
        return re.sub(rf"(?<![\w.}}]){places}", f"{root}/", text)

    for folder in ("etc/systemd/system", "etc/nginx/conf.d", "etc/prometheus", "etc/cron.d"):
        (root / folder).mkdir(parents=True)
    for folder in ("usr/local/bin", "var/backups", "root", "etc/ssl/certs", "etc/ssl/private"):
        (root / folder).mkdir(parents=True)
    write(root / "etc/default/prometheus", 'ARGS=""\n')
    for file in DEPLOY.rglob("*"):
        if file.is_file():
            text = moved(file.read_text("utf-8")).replace("listen 443", f"listen 127.0.0.1:{port}")
            write(root / "opt/ksef-proxy/deploy" / file.relative_to(DEPLOY), text)
    seal = certificates.make(subject=certificates.SEAL)
    (root / "root/seal.p12").write_bytes(seal.pkcs12("hasło"))
    (root / "root/passphrase.txt").write_text("hasło\n")
    pem = ca.issue(root).read_text()
    (root / "etc/ssl/certs/ksef-proxy.pem").write_text(pem)
    (root / "etc/ssl/private/ksef-proxy.key").write_text(pem)
    (root / "nginx.conf").write_text(nginx_around(f"{root}/etc/nginx/conf.d/*.conf", root))
    with postgres.start(tmp_path / "postgres", durable=False) as server:
        words = {
            "project": str(PROJECT),
            "python": sys.executable,
            "root": str(root),
            "nginx": str(NGINX),
            "socket": str(server.folder),
        }
        for name, text in {
            "bin/apt-get": NOTHING,
            "bin/git": NOTHING,
            "bin/make": NOTHING,
            "bin/promtool": NOTHING,
            "bin/runuser": RUNUSER,
            "bin/systemctl": SYSTEMCTL,
            "bin/nginx": NGINX_COMMAND,
            "opt/ksef-proxy/.venv/bin/ksef-proxy": COMMAND,
        }.items():
            write(root / name, text.format(**words))
        settings = [
            *(f"KSEF_URL_{name.upper()}={sandbox.url}/{name}/v2" for name in ("test", "demo")),
            "UPO_SIGNERS_TEST=" + ",".join(control.signers("test")),
        ]
        typed = changed(
            moved(steps()),
            {
                "METRICS_PUBLIC=1\n": "\n".join(["METRICS_PUBLIC=1", *settings, ""]),
                "@127.0.0.1/ksef_proxy": f"@/ksef_proxy?host={server.folder}",
                "--environment prod": "--environment test",
                "check(?= --url|\n)": "check --environment test",
                "https://ksef-proxy.example.com": f"https://127.0.0.1:{port}",
                "install -d -o postgres": "install -d",
            },
        )
        environment = {
            "PATH": f"{root}/bin:{root}/usr/local/bin:{EMBEDDED}:{os.environ['PATH']}",
            "SSL_CERT_FILE": str(ca.bundle),
            "LC_ALL": "C.UTF-8",
        }
        try:
            done = subprocess.run(
                ["bash", "-euxo", "pipefail", "-c", typed],
                cwd=root,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=180,
                check=False,
            )
            assert done.returncode == 0, done.stdout
            yield Machine(root, f"https://127.0.0.1:{port}", done.stdout)
        finally:
            _end(root)
    shutil.rmtree(server.folder, ignore_errors=True)  # root has it elsewhere


def _end(root: Path) -> None:
    for file in (root / "pids", root / "nginx.pid"):
        for pid in file.read_text().split() if file.exists() else ():
            os.kill(int(pid), signal.SIGTERM)
            subprocess.run(["tail", f"--pid={pid}", "-f", "/dev/null"], timeout=60, check=True)


def test_ten_steps_lead_to_a_linked_row_a_upo_and_a_backup(
    machine: Machine, control: Control, ca: Ca
) -> None:
    assert machine.printed.count("failed") == 0
    [password] = re.findall(r"^password: (\S+)$", machine.printed, re.MULTILINE)
    [row_password] = re.findall(r"^The ERP's password in PostgreSQL: (\w+)$", machine.printed, 8)
    assert "Spółka z o.o." in machine.printed.split("pg_restore")[-1]  # out of the backup
    session = control.seed_session("test", NIP, invoices=2)
    settings = (machine.root / "etc/ksef-proxy.env").read_text()
    [host] = re.findall(r"^DATABASE_URL=.*host=(\S+)$", settings, re.MULTILINE)
    with (
        psycopg2.connect(host=host, dbname="ksef_proxy", user="erp", password=row_password) as erp,
        erp.cursor() as cursor,
    ):
        cursor.execute(
            "INSERT INTO synced_invoices (company_nip, environment, ksef_number, invoice_number)"
            " VALUES (%s, 'test', %s, 'FV 1')",
            (NIP, session.ksef_numbers[0]),
        )
    with requests.Session() as http:
        http.trust_env, http.verify = False, str(ca.bundle)
        http.auth = ("erp@example.com", password)
        path = f"{machine.url}/invoices/test/status/{session.reference_number}"
        assert http.get(path, timeout=30).json()["final"]
        upo = http.get(
            f"{path}/{session.ksef_numbers[0]}/upo?docType=pdf",
            headers={"Accept": "application/pdf"},
            timeout=30,
        )
        assert upo.content.startswith(b"%PDF")
        assert http.get(f"{machine.url}/console", timeout=30).status_code == 200
        assert http.get(f"{machine.url}/metrics", timeout=30).status_code == 404
    with erp, erp.cursor() as cursor:
        cursor.execute("SELECT session_reference_number FROM synced_invoices")
        assert cursor.fetchall() == [(session.reference_number,)]
    erp.close()


def test_what_stands_there_is_private_and_watched(machine: Machine) -> None:
    for name in ("ksef-proxy.env", "ksef-proxy-owner.env"):
        assert (machine.root / "etc" / name).stat().st_mode & 0o777 == 0o600
    arguments = (machine.root / "etc/default/prometheus").read_text()
    assert arguments == 'ARGS="--web.listen-address=127.0.0.1:9090"\n'
    folder = machine.root / "etc/prometheus"
    scraped = yaml.safe_load((folder / "prometheus.yml").read_text())
    [job] = scraped["scrape_configs"]
    assert job["job_name"] == "ksef-proxy"
    assert (folder / scraped["rule_files"][0]).is_file()
    for target in job["static_configs"][0]["targets"]:
        assert "ksef_proxy_" in requests.get(f"http://{target}/metrics", timeout=30).text
    cron = (machine.root / "etc/cron.d/ksef-proxy").read_text()
    users = {"root", "postgres"}
    commands = [line.split(None, 6) for line in cron.splitlines() if not line.startswith("#")]
    assert {command[5] for command in commands} == users
    assert shutil.which("pg_dump")
    for command in commands:
        if command[5] == "root":
            subprocess.run(["sh", "-c", command[6]], check=True, timeout=60)
