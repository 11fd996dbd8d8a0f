"""Forms of the console are sent from the console, by the user whom they were drawn for.

A browser sends HTTP Basic along whoever made it ask: a page of somebody else's could send a form,
too. So a form comes from this origin, as the browser says, and carries a token for its user.
"""

import hashlib
from collections.abc import Sequence
from urllib.parse import urlsplit

from flask import Request
from itsdangerous import BadData, URLSafeTimedSerializer

FIELD = "token"
_DAY = 24 * 3600


class FormTokens:
    """Makes and knows the tokens, with keys that all replicas share; the first one signs."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._signer = URLSafeTimedSerializer(
            list(reversed(keys)),  # itsdangerous signs with the last one
            salt="form",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def token(self, email: str) -> str:
        """A token for the forms of a user, good for a day."""
        return str(self._signer.dumps(email))

    def is_good(self, token: str, email: str) -> bool:
        """Whether it is a token of ours for this user, not older than a day."""
        try:
            return bool(self._signer.loads(token, max_age=_DAY) == email)
        except BadData:
            return False


def is_same_origin(request: Request) -> bool:
    """Whether the browser says that one of our own pages asks; no word of it is a no.

    Sec-Fetch-Site is sent on https and to this machine; else Origin is compared with Host.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    return urlsplit(request.headers.get("Origin", "")).netloc == request.host != ""
