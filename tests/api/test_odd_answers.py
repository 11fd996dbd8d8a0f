"""The odd answers of KSeF that docs/sandbox.md can order: each line works, and is answered so."""

import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from app.services.login import credentials
from tests.pages import EXAMPLES
from tests.service import Company

NIP = "5265877635"
HEAD, *REST = re.split(r"^# ", (EXAMPLES / "odd_answers.sh").read_text("utf-8"), flags=re.M)
ORDERS = [tuple(one.split("\n", 1)) for one in REST]
REFERENCE = re.findall(r"^R=(.*)$", HEAD, re.M)[0]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(("told", "order"), ORDERS, ids=[told for told, _ in ORDERS])
def test_an_odd_answer_is_ordered_and_answered(
    make_company: Callable[..., Company], control: Any, sandbox: Any, told: str, order: str
) -> None:
    login = told.startswith("Login: ")
    company = make_company(NIP, environments=("test",), logged_in=not login)
    if login:
        credentials.store_token(company.account(), control.add_token("test", NIP))
    script = (HEAD + order).replace("http://127.0.0.1:8090", sandbox.url)
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

    answer = (
        company.request("POST", "/auth/test")
        if login
        else company.get(f"/invoices/test/status/{REFERENCE}")
    )
    assert control.waiting_faults() == []
    body = answer.json
    [(status, code, member)] = re.findall(r" -> (\d{3})(?: (\w+))?(?:[,:] (.*))?$", told)
    assert answer.status_code == int(status)
    assert body.get("code", "") == code
    match member:
        case "ksef.details":
            assert body["ksef"]["details"]
        case "ksef.reasonCode":
            assert body["ksef"]["reasonCode"]
        case "referenceNumber null":
            assert body["invoices"][1]["duplicateOf"]["referenceNumber"] is None
        case "retryAfter":
            assert body["retryAfter"]
        case "status.details":
            assert body["status"]["details"] == ["Nie przesłano faktur"]
        case _:
            assert "rejected" not in told or body["invoices"][2]["status"]["details"]
