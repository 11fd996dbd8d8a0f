"""What became of a session, and the UPO of each accepted invoice as a PDF in this folder.

KSEF_SERVICE=http://127.0.0.1:8080 KSEF_USER=… KSEF_PASSWORD=… python session.py test REFERENCE
"""

import os
import sys
import time
from pathlib import Path

import requests

PAUSE = float(os.environ.get("KSEF_PAUSE", "30"))  # seconds, where the service names none
PATIENCE = 3600  # seconds; then it is left to the next run
UPO_PDF = {"Accept": "application/pdf"}

http = requests.Session()
http.auth = (os.environ["KSEF_USER"], os.environ["KSEF_PASSWORD"])


def get(path: str, headers: dict[str, str] | None = None) -> requests.Response:
    """A 200, asked for again for as long as that may help; else the program ends."""
    give_up = time.monotonic() + PATIENCE
    while True:
        wait, problem = PAUSE, "no connection"
        try:
            answer = http.get(os.environ["KSEF_SERVICE"] + path, headers=headers, timeout=40)
            if answer.ok:
                return answer
            problem = answer.text
            told = answer.json()
            problem = f"{told['code']}: {told['detail']} (request {told['requestId']})"
            wait = told.get("retryAfter", PAUSE)
            may_come = answer.status_code == 404 and "retryAfter" in told
            if answer.status_code < 500 and answer.status_code != 409 and not may_come:
                sys.exit(problem)  # repeating will not help: somebody has to look at it
        except requests.JSONDecodeError:
            pass  # of a proxy in between
        except (requests.ConnectionError, requests.Timeout):
            pass
        if time.monotonic() + wait > give_up:
            sys.exit(problem)
        print(problem, file=sys.stderr)  # 409 ksef_outage: invoices are issued offline now
        time.sleep(wait)


def main(environment: str, reference_number: str) -> None:
    path = f"/invoices/{environment}/status/{reference_number}"
    session = get(path).json()
    while not session["final"]:
        time.sleep(session["nextCheckAfter"])
        session = get(path).json()
    print(session["status"]["code"], session["status"]["description"])
    for invoice in session["invoices"]:
        number, status = invoice["ksefNumber"], invoice["status"]
        name = invoice["invoiceNumber"] or invoice["invoiceHash"]  # a refused one has no number
        print(name, status["code"], status["description"], number)
        if status["code"] == 200:
            upo = get(f"{path}/{number}/upo?docType=pdf", UPO_PDF)
            Path(f"{number}-upo.pdf").write_bytes(upo.content)


main(*sys.argv[1:])
