"""What schemathesis cannot read from the contract; loaded into its process by `test_fuzz`.

- Rules that JSON Schema has no words for: check digits, one of two parameters, a time to come.
- Where KSeF is to be asked the company is logged in and no outage simulated: else one call that
  ends a session would turn all that follow into 404.
- The answers are counted, by operation and status, into the file `FUZZ_COUNTS`.
"""

import atexit
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import requests
import schemathesis

from app.identifiers import crc8

KSEF_NUMBER_LENGTH = 35
ASKS_KSEF = {"sessionStatus", "invoiceUpo", "sessionUpo"}
SPOILS = {("logOut", 204), ("simulateOutage", 200)}
URL = os.environ["FUZZ_URL"]
HTTP = requests.Session()
HTTP.trust_env = False
HTTP.auth = (os.environ["FUZZ_EMAIL"], os.environ["FUZZ_PASSWORD"])

counts: Counter[str] = Counter()
spoiled: set[str] = set()
atexit.register(lambda: Path(os.environ["FUZZ_COUNTS"]).write_text(json.dumps(counts)))


NAMES = ("ksefNumber", "invoiceHash", "invoiceNumber")  # of an invoice: one in a question


def operation(case: Any) -> str:
    return str(case.operation.definition.raw["operationId"])


def obey(case: Any) -> None:
    for place in (case.path_parameters, case.query):
        number = (place or {}).get("ksefNumber")
        if isinstance(number, str) and len(number) == KSEF_NUMBER_LENGTH and number.isascii():
            place["ksefNumber"] = f"{number[:33]}{crc8(number[:32]):02X}"
    if operation(case) == "findInvoice":
        query = case.query
        names = [name for name in NAMES if name in query]
        for name in names[1:]:
            query.pop(name)
        if not names:
            query["invoiceNumber"] = "FV/1"
        if "invoiceHash" not in query:
            query.pop("sentAt", None)
    if isinstance(case.body, dict) and case.body.get("endsAt"):
        case.body["endsAt"] = "2099-01-01T12:00:00+01:00"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    if case.meta and case.meta.generation.mode.is_positive:
        obey(case)
    if operation(case) in ASKS_KSEF and spoiled:
        for environment in spoiled:
            if environment != "prod":
                HTTP.delete(f"{URL}/outages/{environment}/simulation").raise_for_status()
            HTTP.post(f"{URL}/auth/{environment}").raise_for_status()
        spoiled.clear()


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """What gunicorn itself refuses is outside of the contract."""
    [media_type, *_] = response.headers.get("content-type", [""])
    return response.status_code not in (400, 414, 431) or not media_type.startswith("text/html")


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    counts[f"{case.method} {operation(case)} {response.status_code}"] += 1
    if (operation(case), response.status_code) in SPOILS:
        spoiled.add(case.path_parameters["environment"])
