"""schemathesis asks the running service whatever the contract allows, and what it does not.

By `make test` a little, the same each time; by `make fuzz` much, at random.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.service import Service
from sandbox import demo
from sandbox.control import Control
from tests.certificates import make
from tests.hypothesis_profile import fuzzing
from tests.service import PASSWORD

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
# What exists is asked for more often than chance would have it.
CONFIGURATION = """
continue-on-failure = true
[dictionaries]
references = {{ values = {references} }}
numbers = {{ values = {numbers} }}
[parameters]
referenceNumber = {{ dictionary = "references", probability = 0.7 }}
ksefNumber = {{ dictionary = "numbers", probability = 0.7 }}
[generation]
allow-x00 = false
database = "none"
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 304, 403, 404, 409]
"""
FEW = ("--max-examples=8", "--seed=1", "--generation-deterministic", "--phases=examples,fuzzing")
MANY = ("--max-examples=400",)


def test_every_answer_is_one_of_the_contract(
    server: Any, service: Service, control: Control, database: Any, tmp_path: Path
) -> None:
    certificate = make()
    shown = demo.prepare(
        service, control, database.erp_dsn, PASSWORD, certificate.pem + certificate.key_pem()
    )

    run, counts = fuzz(server.url, shown, tmp_path, MANY if fuzzing() else FEW)

    print(run.stdout, *(f"{times:6} {what}" for what, times in sorted(counts.items())), sep="\n")
    assert run.returncode == 0
    assert counts["GET sessionStatus 200"] > 0
    assert counts["GET invoiceUpo 200"] > 0
    assert not any(what.endswith(" 500") for what in counts)
    if fuzzing():
        assert counts.total() >= 5000


def fuzz(
    url: str, shown: demo.Demo, folder: Path, options: tuple[str, ...]
) -> tuple["subprocess.CompletedProcess[str]", Counter[str]]:
    """Run schemathesis with all checks; what it printed, and how often which answer came."""
    sessions = (shown.online, shown.batch, shown.moving)
    configuration = folder / "schemathesis.toml"
    configuration.write_text(
        CONFIGURATION.format(
            references=json.dumps([session.reference_number for session in sessions]),
            numbers=json.dumps([n for session in sessions for n in session.ksef_numbers if n]),
        )
    )
    counts = folder / "counts.json"
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)),
        *("run", f"{url}/openapi.json", "--auth", f"{demo.EMAIL}:{PASSWORD}"),
        *("--checks=all", "--no-color", "--warnings=off", *options),
    ]
    environment = {
        "PATH": os.environ["PATH"],
        "SCHEMATHESIS_HOOKS": "tests.journeys.fuzz_hooks",
        "PYTHONPATH": str(PROJECT),
        "FUZZ_URL": url,
        "FUZZ_EMAIL": demo.EMAIL,
        "FUZZ_PASSWORD": PASSWORD,
        "FUZZ_COUNTS": str(counts),
    }
    run = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    return run, Counter(json.loads(counts.read_text()) if counts.exists() else {})
