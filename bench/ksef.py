"""KSeF asked directly, with nothing in between: no quota ledger, no stored answers, no retry."""

from collections.abc import Iterator
from typing import Any

import msgspec
import requests

from app.service import Service
from app.services.login.tokens import AccessToken
from app.settings import from_environment
from bench.rig import Rig

PAGE_SIZE = 1000


class Page(msgspec.Struct, rename="camel"):
    """What tells the next page; nothing else of a page is decoded."""

    continuation_token: str | None = None


def access_token(rig: Rig, nip: str) -> str:
    """That of a company which the rig has logged in to test."""
    service = Service(from_environment(rig.environment))
    try:
        return AccessToken(service.account(nip, "test")).access_token()
    finally:
        service.db.close()


class Ksef:
    """A client of the KSeF at `url` with an access token. Raises requests.RequestException."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.headers["Authorization"] = f"Bearer {token}"

    def session(self, reference: str) -> Any:
        """The status of a session."""
        return self._get(f"/sessions/{reference}").json()

    def pages(self, reference: str) -> Iterator[bytes]:
        """The list of its invoices, page by page, not decoded."""
        headers: dict[str, str] = {}
        while True:
            page = self._get(f"/sessions/{reference}/invoices?pageSize={PAGE_SIZE}", headers)
            yield page.content
            token = msgspec.json.decode(page.content, type=Page).continuation_token
            if token is None:
                return
            headers = {"x-continuation-token": token}

    def _get(self, path: str, headers: dict[str, str] | None = None) -> requests.Response:
        answer = self._http.get(
            self._url + path, headers=headers, timeout=15, allow_redirects=False
        )
        answer.raise_for_status()
        return answer
