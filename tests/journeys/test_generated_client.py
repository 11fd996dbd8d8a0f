"""A client made from /openapi.json by a public generator: an ERP developer's first hour."""

import base64
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service import PASSWORD, Company

pytestmark = pytest.mark.slow

NAME = "ksef_proxy_client"
UNKNOWN = "20260101-SO-0123456789-0123456789-01"


class Client:
    """The generated package, and its client of the company."""

    def __init__(self, url: str, company: Company) -> None:
        token = base64.b64encode(f"{company.email}:{PASSWORD}".encode()).decode()
        self.models = importlib.import_module(f"{NAME}.models")
        self.http = importlib.import_module(f"{NAME}.client").AuthenticatedClient(
            base_url=url, token=token, prefix="Basic"
        )

    def call(self, operation: str, *arguments: Any, **more: Any) -> Any:
        module = importlib.import_module(f"{NAME}.api.{operation}")
        return module.sync(*arguments, client=self.http, **more)


@pytest.fixture(scope="session")
def generated(shared_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("client")
    generator = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
    made = subprocess.run(
        [*generator, "--url", f"{shared_server.url}/openapi.json", "--output-path", folder / NAME],
        cwd=folder,
        env={"PATH": str(Path(sys.executable).parent), "NO_COLOR": "1"},  # it formats with ruff
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout
    assert "Warning" not in made.stdout, made.stdout
    sys.path.insert(0, str(folder))
    yield folder / NAME
    sys.path.remove(str(folder))


@pytest.fixture
def client(generated: Path, server: Any, company: Company) -> Iterator[Client]:
    made = Client(server.url, company)
    with made.http:
        yield made


def test_session_status(client: Client, company: Company, control: Any) -> None:
    session = control.seed_session("test", company.nip, invoices=2)
    models = client.models
    answer = client.call("status.session_status", models.Environment.TEST, session.reference_number)
    assert isinstance(answer, models.SessionAnswer)
    assert (answer.final, answer.status.code, answer.total_invoice_count) == (True, 200, 2)
    assert [invoice.ksef_number for invoice in answer.invoices] == session.ksef_numbers
    assert answer.checked_at.tzinfo is not None


def test_upo(client: Client, company: Company, control: Any) -> None:
    session = control.seed_session("test", company.nip, invoices=1)
    models = client.models
    numbers = (models.Environment.TEST, session.reference_number, session.ksef_numbers[0])
    answer = client.call("upo.invoice_upo", *numbers, doc_type=models.DocType.PDF)
    assert isinstance(answer, models.UpoAnswer)
    assert answer.content_type is models.DocumentMediaType.APPLICATIONPDF
    assert base64.b64decode(answer.content).startswith(b"%PDF-")


def test_a_problem_has_its_code(client: Client, control: Any) -> None:
    answer = client.call("status.session_status", client.models.Environment.TEST, UNKNOWN)
    assert isinstance(answer, client.models.Problem)
    assert answer.code is client.models.ProblemCode.SESSION_NOT_FOUND


def test_types_are_named_for_what_they_are(generated: Path) -> None:
    """One Problem and one Environment, not one of each for every operation; and no Any in them."""
    models = {file.stem for file in (generated / "models").glob("*.py")}
    assert {"problem", "problem_code", "environment", "doc_type", "outage_duty"} <= models
    assert {name for name in models if name.endswith("environment")} == {"environment"}
    for file in (generated / "models").glob("*.py"):
        members = file.read_text().split("additional_properties: dict[str, Any]")[0]
        assert ": Any" not in members, file.name
