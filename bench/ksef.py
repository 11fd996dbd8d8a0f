"""KSeF asked directly, with nothing in between: no quota ledger, no stored answers, no retry."""

import base64
from collections.abc import Iterator
from typing import Any

import msgspec
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

PAGE_SIZE = 1000


class Page(msgspec.Struct, rename="camel"):
    """What tells the next page; nothing else of a page is decoded."""

    continuation_token: str | None = None


class Ksef:
    """A client of the KSeF at `url` with an access token. Raises requests.RequestException."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.headers["Authorization"] = f"Bearer {token}"

    def session(self, reference: str) -> dict[str, Any]:
        """The status of a session."""
        return self.call("GET", f"/sessions/{reference}").json()  # type: ignore[no-any-return]

    def pages(self, reference: str) -> Iterator[bytes]:
        """The list of its invoices, page by page, not decoded."""
        path, headers = f"/sessions/{reference}/invoices?pageSize={PAGE_SIZE}", None
        while True:
            content = self.call("GET", path, headers).content
            yield content
            token = msgspec.json.decode(content, type=Page).continuation_token
            if token is None:
                return
            headers = {"x-continuation-token": token}

    def call(self, method: str, path: str, headers: Any = None, body: Any = None) -> Any:
        """The answer to a call, if it is a good one."""
        answer = self._http.request(
            method, self._url + path, headers=headers, json=body, timeout=15, allow_redirects=False
        )
        answer.raise_for_status()
        return answer


def log_in(url: str, nip: str, ksef_token: str) -> str:
    """An access token of a company that has a KSeF token."""
    anonymous = Ksef(url, "")
    challenge = anonymous.call("POST", "/auth/challenge").json()
    [key] = [
        key
        for key in anonymous.call("GET", "/security/public-key-certificates").json()
        if "KsefTokenEncryption" in key["usage"]
    ]
    certificate = x509.load_der_x509_certificate(base64.b64decode(key["certificate"]))
    public: Any = certificate.public_key()
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    sealed = public.encrypt(f"{ksef_token}|{challenge['timestampMs']}".encode(), oaep)
    order = {
        "challenge": challenge["challenge"],
        "contextIdentifier": {"type": "Nip", "value": nip},
        "encryptedToken": base64.b64encode(sealed).decode(),
    }
    begun = anonymous.call("POST", "/auth/ksef-token", body=order).json()
    login = Ksef(url, begun["authenticationToken"]["token"])
    while login.call("GET", f"/auth/{begun['referenceNumber']}").json()["status"]["code"] == 100:
        pass
    return str(login.call("POST", "/auth/token/redeem").json()["accessToken"]["token"])
