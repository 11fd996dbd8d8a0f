"""Protection against cross-site request forgery for the console's forms.

A browser sends HTTP Basic credentials with every request, even if another site's page caused it.
So a form must come from this origin, as the browser states (`api.origin`), and carry a token for
its user.
"""

import hashlib
from collections.abc import Sequence

from itsdangerous import BadData, URLSafeTimedSerializer

FIELD = "token"
_DAY = 24 * 3600


class FormTokens:
    """Makes and checks tokens, with keys that all replicas share; the first one signs."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._signer = URLSafeTimedSerializer(
            list(reversed(keys)),  # itsdangerous signs with the last one
            salt="form",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def token(self, email: str) -> str:
        """A token for the forms of a user, valid for a day."""
        return str(self._signer.dumps(email))

    def is_good(self, token: str, email: str) -> bool:
        """Whether it is our token for this user, at most a day old."""
        try:
            return bool(self._signer.loads(token, max_age=_DAY) == email)
        except BadData:
            return False
