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
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        message, sent = (self.headers.get(f"webhook-{name}", "0") for name in ("id", "timestamp"))
        content = f"{message}.{sent}.".encode() + body
        signature = f"v1,{base64.b64encode(hmac.digest(KEY, content, 'sha256')).decode()}"
        given = self.headers.get("webhook-signature", "").split(" ")  # several while a key changes
        genuine = any(hmac.compare_digest(signature, one) for one in given)
        if abs(time.time() - int(sent)) > 300:  # a clock that is wrong, or somebody sends it again
            genuine = False
        if genuine and message not in seen:
            event = json.loads(body)
            print(event["type"], event.get("referenceNumber", ""), flush=True)
            seen.add(message)
        self.send_response(204 if genuine else 401)
        self.end_headers()


HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
