"""A plain KSeF client that knows only the official documentation, not the sandbox's code."""

import base64
import hashlib
import io
import os
import zipfile
from dataclasses import dataclass, field
from typing import Any

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from lxml import etree
from signxml.algorithms import SignatureMethod
from signxml.xades import XAdESSigner

from tests.certificates import Made

NIP = "5265877635"
OTHER_NIP = "7010002137"


def base64_text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def sha256(content: bytes) -> str:
    return base64_text(hashlib.sha256(content).digest())


def encrypt(content: bytes, key: bytes, vector: bytes) -> bytes:
    """AES-256-CBC with PKCS#7 padding."""
    padder = padding.PKCS7(128).padder()
    padded = padder.update(content) + padder.finalize()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(vector)).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


def zipped(**files: bytes) -> bytes:
    """A ZIP of files, named as the arguments are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{name}.xml", content)
    return buffer.getvalue()


def invoice_xml(
    number: str,
    *,
    seller: str = NIP,
    buyer: str = OTHER_NIP,
    issued: str = "2026-11-20",
    kind: str = "VAT",
) -> bytes:
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Faktura xmlns="http://crd.gov.pl/wzor/2025/06/25/13775/">
  <Naglowek><KodFormularza kodSystemowy="FA (3)" wersjaSchemy="1-0E">FA</KodFormularza></Naglowek>
  <Podmiot1><DaneIdentyfikacyjne><NIP>{seller}</NIP></DaneIdentyfikacyjne></Podmiot1>
  <Podmiot2><DaneIdentyfikacyjne><NIP>{buyer}</NIP></DaneIdentyfikacyjne></Podmiot2>
  <Fa><KodWaluty>PLN</KodWaluty><P_1>{issued}</P_1><P_2>{number}</P_2>
    <RodzajFaktury>{kind}</RodzajFaktury></Fa>
</Faktura>""".encode()


def login_document(
    made: Made,
    *,
    challenge: str,
    nip: str = NIP,
    subject_type: str = "certificateSubject",
    namespace: str = "http://ksef.mf.gov.pl/auth/token/2.1",
    content: str | None = None,
    method: SignatureMethod | None = None,
) -> bytes:
    """An `AuthTokenRequest`, signed; `content` stands in for what the others describe."""
    if content is None:
        content = (
            f"<Challenge>{challenge}</Challenge>"
            f"<ContextIdentifier><Nip>{nip}</Nip></ContextIdentifier>"
            f"<SubjectIdentifierType>{subject_type}</SubjectIdentifierType>"
        )
    root = etree.fromstring(f'<AuthTokenRequest xmlns="{namespace}">{content}</AuthTokenRequest>')
    elliptic = isinstance(made.key, ec.EllipticCurvePrivateKey)
    signer = XAdESSigner(
        signature_algorithm=method
        or (SignatureMethod.ECDSA_SHA256 if elliptic else SignatureMethod.RSA_SHA256)
    )
    return etree.tostring(signer.sign(root, key=made.key, cert=[made.certificate]))


@dataclass
class Client:
    """Calls one environment of KSeF; after `log_in` with its access token."""

    base: str
    nip: str = NIP
    access_token: str | None = None
    refresh_token: str | None = None
    operation_token: str | None = None
    login_reference: str | None = None
    problem_details: bool = True
    http: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        self.http.trust_env = False

    def call(
        self,
        method: str,
        path: str,
        *,
        bearer: str | None = None,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> requests.Response:
        sent = dict(headers or {})
        if self.problem_details:
            sent.setdefault("X-Error-Format", "problem-details")
        token = self.access_token if bearer is None else bearer
        if token:
            sent["Authorization"] = f"Bearer {token}"
        return self.http.request(method, self.base + path, headers=sent, timeout=10, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.call("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.call("POST", path, **options)

    # -- login ---------------------------------------------------------------------------

    def public_key(self, usage: str) -> tuple[str, Any]:
        keys = self.get("/security/public-key-certificates", bearer="").json()
        entry = next(key for key in keys if usage in key["usage"])
        certificate = x509.load_der_x509_certificate(base64.b64decode(entry["certificate"]))
        return entry["publicKeyId"], certificate.public_key()

    def encrypt(self, usage: str, content: bytes) -> tuple[str, str]:
        key_id, key = self.public_key(usage)
        oaep = rsa_padding.OAEP(rsa_padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        return key_id, base64_text(key.encrypt(content, oaep))

    def start_login(self, ksef_token: str, **changes: Any) -> requests.Response:
        """Challenge and token login; `shift_ms` falsifies the time, others replace members."""
        challenge = self.post("/auth/challenge", bearer="").json()
        moment = challenge["timestampMs"] + changes.pop("shift_ms", 0)
        key_id, encrypted = self.encrypt("KsefTokenEncryption", f"{ksef_token}|{moment}".encode())
        order = {
            "challenge": challenge["challenge"],
            "contextIdentifier": {"type": "Nip", "value": self.nip},
            "encryptedToken": encrypted,
            "publicKeyId": key_id,
        } | changes
        answer = self.post("/auth/ksef-token", json=order, bearer="")
        if answer.status_code == 202:
            self.login_reference = answer.json()["referenceNumber"]
            self.operation_token = answer.json()["authenticationToken"]["token"]
        return answer

    def start_certificate_login(
        self, made: Made, *, query: str = "", **changes: Any
    ) -> requests.Response:
        """Challenge and login with a certificate; see `login_document` for `changes`."""
        challenge = self.post("/auth/challenge", bearer="").json()["challenge"]
        document = login_document(made, **{"challenge": challenge, "nip": self.nip} | changes)
        return self.send_login_document(document, query=query)

    def send_login_document(self, document: bytes, *, query: str = "") -> requests.Response:
        answer = self.post(
            f"/auth/xades-signature{query}",
            data=document,
            headers={"Content-Type": "application/xml"},
            bearer="",
        )
        if answer.status_code == 202:
            self.login_reference = answer.json()["referenceNumber"]
            self.operation_token = answer.json()["authenticationToken"]["token"]
        return answer

    def login_status(self) -> dict[str, Any]:
        answer = self.get(f"/auth/{self.login_reference}", bearer=self.operation_token)
        return answer.json()["status"]

    def settled_login(self) -> dict[str, Any]:
        """The status once it is no longer 100."""
        for _ in range(20):
            status = self.login_status()
            if status["code"] != 100:
                return status
        raise AssertionError("the login stays at 100")

    def redeem(self) -> requests.Response:
        answer = self.post("/auth/token/redeem", bearer=self.operation_token)
        if answer.status_code == 200:
            self.access_token = answer.json()["accessToken"]["token"]
            self.refresh_token = answer.json()["refreshToken"]["token"]
        return answer

    def log_in(self, ksef_token: str) -> "Client":
        assert self.start_login(ksef_token).status_code == 202
        assert self.settled_login()["code"] == 200
        assert self.redeem().status_code == 200
        return self

    def log_in_with_certificate(self, made: Made) -> "Client":
        assert self.start_certificate_login(made).status_code == 202
        assert self.settled_login()["code"] == 200
        assert self.redeem().status_code == 200
        return self

    # -- sending -------------------------------------------------------------------------

    def open_session(self) -> "OnlineSession":
        key, vector = os.urandom(32), os.urandom(16)
        answer = self.post("/sessions/online", json=self.session_order(key, vector))
        assert answer.status_code == 201, answer.text
        return OnlineSession(self, answer.json()["referenceNumber"], key, vector)

    def session_order(self, key: bytes, vector: bytes) -> dict[str, Any]:
        key_id, encrypted = self.encrypt("SymmetricKeyEncryption", key)
        return {
            "formCode": {"systemCode": "FA (3)", "schemaVersion": "1-0E", "value": "FA"},
            "encryption": {
                "encryptedSymmetricKey": encrypted,
                "initializationVector": base64_text(vector),
                "publicKeyId": key_id,
            },
        }

    def open_batch(
        self, archive: bytes, *, cuts: int = 1, compression: str | None = None, **changes: Any
    ) -> "BatchSession":
        """A batch session for an archive, cut into so many parts, each encrypted."""
        key, vector = os.urandom(32), os.urandom(16)
        length = -(-len(archive) // cuts)
        parts = [
            encrypt(archive[start : start + length], key, vector)
            for start in range(0, len(archive), length)
        ]
        batch_file = {
            "fileSize": len(archive),
            "fileHash": sha256(archive),
            "fileParts": [
                {"ordinalNumber": i, "fileSize": len(part), "fileHash": sha256(part)}
                for i, part in enumerate(parts, 1)
            ],
        }
        if compression:
            batch_file["compressionType"] = compression
        order = self.session_order(key, vector) | {"batchFile": batch_file} | changes
        answer = self.post("/sessions/batch", json=order)
        assert answer.status_code == 201, answer.text
        content = answer.json()
        return BatchSession(self, content["referenceNumber"], parts, content["partUploadRequests"])

    # -- asking --------------------------------------------------------------------------

    def session(self, reference: str) -> dict[str, Any]:
        answer = self.get(f"/sessions/{reference}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def pages(self, reference: str, *, page_size: int = 1000) -> list[list[dict[str, Any]]]:
        """All pages of a session's invoices."""
        pages, headers = [], {}
        while True:
            path = f"/sessions/{reference}/invoices?pageSize={page_size}"
            content = self.get(path, headers=headers).json()
            pages.append(content["invoices"])
            if not content.get("continuationToken"):
                return pages
            headers = {"x-continuation-token": content["continuationToken"]}


@dataclass
class OnlineSession:
    """An open online session and the key that its invoices are encrypted with."""

    client: Client
    reference: str
    key: bytes
    vector: bytes

    def order(self, content: bytes, **changes: Any) -> dict[str, Any]:
        encrypted = encrypt(content, self.key, self.vector)
        return {
            "invoiceHash": sha256(content),
            "invoiceSize": len(content),
            "encryptedInvoiceHash": sha256(encrypted),
            "encryptedInvoiceSize": len(encrypted),
            "encryptedInvoiceContent": base64_text(encrypted),
        } | changes

    def post(self, content: bytes, **changes: Any) -> requests.Response:
        return self.client.post(
            f"/sessions/online/{self.reference}/invoices", json=self.order(content, **changes)
        )

    def send(self, content: bytes, **changes: Any) -> str:
        answer = self.post(content, **changes)
        assert answer.status_code == 202, answer.text
        return answer.json()["referenceNumber"]

    def invoice(self, reference: str) -> dict[str, Any]:
        answer = self.client.get(f"/sessions/{self.reference}/invoices/{reference}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def close(self) -> requests.Response:
        return self.client.post(f"/sessions/online/{self.reference}/close")


@dataclass
class BatchSession:
    """An open batch session, its encrypted parts and where they go."""

    client: Client
    reference: str
    parts: list[bytes]
    requests: list[dict[str, Any]]

    def upload(self, number: int, content: bytes | None = None, **options: Any) -> int:
        """PUT of a part, from 0; the status of the answer."""
        wanted = self.requests[number]
        answer = self.client.http.request(
            wanted["method"],
            wanted["url"],
            data=self.parts[number] if content is None else content,
            **{"headers": wanted["headers"], "timeout": 10} | options,
        )
        return answer.status_code

    def close(self) -> requests.Response:
        return self.client.post(f"/sessions/batch/{self.reference}/close")

    def send(self) -> str:
        for number in range(len(self.parts)):
            assert self.upload(number) == 201
        assert self.close().status_code == 204
        return self.reference
