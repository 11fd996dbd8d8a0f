"""What session.py does, without any library.

KSEF_SERVICE=http://127.0.0.1:8080 KSEF_USER=… KSEF_PASSWORD=… python session_stdlib.py test REF
"""

import base64
import json
import os
import sys
import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

PAUSE = float(os.environ.get("KSEF_PAUSE", "30"))  # seconds, where the service names none
PATIENCE = 3600
LOGIN = base64.b64encode(f"{os.environ['KSEF_USER']}:{os.environ['KSEF_PASSWORD']}".encode())


def get(path: str, accept: str = "application/json") -> bytes:
    """The body of a 200, asked for again for as long as that may help; else the program ends."""
    headers = {"Authorization": f"Basic {LOGIN.decode()}", "Accept": accept}
    give_up = time.monotonic() + PATIENCE
    while True:
        wait, problem = PAUSE, "no connection"
        try:
            request = Request(os.environ["KSEF_SERVICE"] + path, headers=headers)
            with urlopen(request, timeout=40) as answer:
                return answer.read()
        except HTTPError as error:
            problem = error.read().decode()
            retry_after = error.headers["Retry-After"]
            wait = float(retry_after or PAUSE)
            may_come = error.code == 404 and retry_after
            if error.code < 500 and error.code != 409 and not may_come:
                sys.exit(problem)
        except (OSError, HTTPException):
            pass
        if time.monotonic() + wait > give_up:
            sys.exit(problem)
        print(problem, file=sys.stderr)
        time.sleep(wait)


def main(environment: str, reference_number: str) -> None:
    path = f"/invoices/{environment}/status/{reference_number}"
    session = json.loads(get(path))
    while not session["final"]:
        time.sleep(session["nextCheckAfter"])
        session = json.loads(get(path))
    print(session["status"]["code"], session["status"]["description"])
    for invoice in session["invoices"]:
        number, status = invoice["ksefNumber"], invoice["status"]
        name = invoice["invoiceNumber"] or invoice["invoiceHash"]  # a refused one has no number
        print(name, status["code"], status["description"], number)
        if status["code"] == 200:
            upo = get(f"{path}/{number}/upo?docType=pdf", accept="application/pdf")
            Path(f"{number}-upo.pdf").write_bytes(upo)


main(*sys.argv[1:])
