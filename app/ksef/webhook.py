"""HTTP to the receivers of webhooks: an event is posted, signed as Standard Webhooks has it."""

import base64
import hashlib
import hmac
from contextlib import suppress
from datetime import datetime

from app.ksef import deadline
from app.ksef.http import BROKEN, TooLong, read, session

SECRET_PREFIX = "whsec_"  # noqa: S105 - no secret
_CALL = 10.0  # seconds for a whole call
_CONNECT = 3.0
_MOST_READ = 4 * 2**10  # of an answer, of which nothing but the status counts


class Receivers:
    """Posts to receivers through the proxy and with the CAs of the settings. Thread-safe."""

    def __init__(self, *, threads: int, proxy_url: str | None, ca_bundle: str | None) -> None:
        self._session = session(threads, proxy_url, ca_bundle)

    def post(self, url: str, headers: dict[str, str], body: bytes) -> tuple[int | None, str]:
        """The status of the answer (None where there was none), and the same in words.

        Redirects are not followed.
        """
        try:
            with (
                deadline.exchange(_CALL, connect=_CONNECT, strict=False) as exchange,
                self._session.post(
                    url,
                    data=body,
                    headers={"Content-Type": "application/json", **headers},
                    timeout=_CALL,
                ) as response,
            ):
                with suppress(*BROKEN, TooLong):  # a broken answer has its status all the same
                    read(response, _MOST_READ, exchange.until)
                return response.status_code, str(response.status_code)
        except BROKEN as error:
            return None, type(error).__name__


def signed(secret: str, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers by which a receiver knows who sent a message, and when.

    `secret`: `whsec_` and Base64, as the operator was shown it.
    """
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    timestamp = str(int(at.timestamp()))
    content = b".".join((message_id.encode(), timestamp.encode(), body))
    signature = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }
