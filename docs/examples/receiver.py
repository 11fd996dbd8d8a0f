"""A receiver of events: checks who sent each one, and prints it once.

WEBHOOK_SECRET=whsec_… python receiver.py 9000
"""

import base64
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

KEY = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
seen = set()  # yours: a table with a unique key, written in the transaction of the work


class Receiver(BaseHTTPRequestHandler):
    timeout = 5  # seconds; a sender that says nothing holds up nobody for longer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        message, sent, given = (
            self.headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature")
        )
        digest = hmac.digest(KEY, f"{message}.{sent}.".encode() + body, "sha256")
        signature = b"v1," + base64.b64encode(digest)
        genuine = any(  # several while a key changes
            hmac.compare_digest(signature, one.encode()) for one in given.split(" ")
        )
        if not sent.isdecimal() or abs(time.time() - int(sent)) > 300:
            genuine = False  # a clock that is wrong, or somebody sends it again
        if genuine and message not in seen:
            event = json.loads(body)
            print(event["type"], event.get("referenceNumber", ""), flush=True)
            seen.add(message)
        self.send_response(204 if genuine else 401)
        self.end_headers()


HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
