"""FAULTS.md row 2, and the settings KSEF_CA_BUNDLE and KSEF_PROXY_URL: with real TLS."""

import base64
import contextlib
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app import create_app, errors
from app.context import EXTENSION
from app.ksef.failures import NoAnswer, Retry
from app.ksef.http import Http
from app.ksef.latarnia import Latarnia
from app.ksef.login import PUBLIC_KEYS
from app.settings import Settings
from tests.answers import assert_problem
from tests.faults.conftest import ENDPOINTS, Asker

NOW = datetime.now(UTC)
ONLY_SIGNS_CERTIFICATES = x509.KeyUsage(
    **dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    ),
    key_cert_sign=True,
    crl_sign=True,
)


@dataclass(frozen=True)
class Ca:
    """A CA of our own; `bundle` is its certificate's file."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    bundle: Path

    def issue(
        self, folder: Path, *, host: str = "127.0.0.1", ends: timedelta = timedelta(days=1)
    ) -> Path:
        """A server's certificate and key, in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=9))
            .not_valid_after(NOW + ends)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False
            )
            .sign(self.key, hashes.SHA256())
        )
        file = folder / f"{certificate.serial_number}.pem"
        file.write_bytes(pem(certificate) + pem_key(key))
        return file


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Ca:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA of the tests")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=10))
        .not_valid_after(NOW + timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        # From Python 3.13 on, certificates have to be what RFC 5280 wants.
        .add_extension(ONLY_SIGNS_CERTIFICATES, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256())
    )
    bundle = tmp_path_factory.mktemp("ca") / "ca.pem"
    bundle.write_bytes(pem(certificate))
    return Ca(key, certificate, bundle)


class Door:
    """Listens on the loopback and passes on: with TLS, or as an HTTP proxy, or both."""

    def __init__(self, *, certificate: Path | None = None, target: int | None = None) -> None:
        self.connections = 0
        self.heads: list[str] = []
        self.errors: list[str] = []
        self._target = target
        self._context = None
        if certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            opened.enter_context(client)
            if self._context:
                client = self._context.wrap_socket(client, server_side=True)
                opened.enter_context(client)
            target, first = self._target, b""
            if target is None:  # a proxy
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(4096)
                self.heads.append(head.decode())
                method, address, _ = head.decode().split(" ", 2)
                if method == "CONNECT":
                    target = int(address.rpartition(":")[2])
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    target, first = urlsplit(address).port, head
            with socket.create_connection(("127.0.0.1", target or 0)) as server:
                server.sendall(first)
                threading.Thread(target=copy, args=(server, client), daemon=True).start()
                copy(client, server)


def copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


Open = Callable[..., Door]


@pytest.fixture
def door() -> Iterator[Open]:
    with contextlib.ExitStack() as doors:

        def make(**kwargs: Any) -> Door:
            made = Door(**kwargs)
            doors.callback(made.close)
            return made

        yield make


def http_to(url: str, **kwargs: Any) -> Http:
    return Http("test", f"{url}/test/v2", connect=1, call=2, threads=2, **kwargs)


@pytest.fixture
def secure_ksef(door: Open, sandbox: Any, ca: Ca, tmp_path: Path) -> Door:
    """The sandbox behind TLS."""
    return door(certificate=ca.issue(tmp_path), target=urlsplit(sandbox.url).port)


def test_ca_of_the_settings_is_trusted(secure_ksef: Door, ca: Ca) -> None:
    ksef = http_to(f"https://127.0.0.1:{secure_ksef.port}", ca_bundle=str(ca.bundle))
    for _ in range(2):
        assert json.loads(ksef.send(PUBLIC_KEYS).body)
    assert secure_ksef.connections == 1


REASONS = {
    "expired": "TLS: certificate has expired",
    "another host": "TLS: IP address mismatch, certificate is not valid for '127.0.0.1'.",
    "unknown CA": "TLS: unable to get local issuer certificate"
    " (the CAs in KSEF_CA_BUNDLE, by default certifi's, are trusted)",
}


@pytest.fixture(params=REASONS)
def insecure(
    request: pytest.FixtureRequest, door: Open, sandbox: Any, ca: Ca, tmp_path: Path
) -> tuple[Door, str | None]:
    """The sandbox behind TLS that proves nothing, and the CAs to trust."""
    certificate = {
        "expired": lambda: ca.issue(tmp_path, ends=timedelta(days=-1)),
        "another host": lambda: ca.issue(tmp_path, host="192.0.2.1"),
        "unknown CA": lambda: ca.issue(tmp_path),
    }[request.param]()
    tls = door(certificate=certificate, target=urlsplit(sandbox.url).port)
    return tls, None if request.param == "unknown CA" else str(ca.bundle)


@pytest.mark.fault(2)
@pytest.mark.parametrize("stored", [False, True], ids=["cold", "stored"])
def test_endpoints_before_a_ksef_that_is_not_secure(
    asker: Asker, insecure: tuple[Door, str | None], settings: Settings, stored: bool
) -> None:
    if stored:
        asker.keep_answers()
    tls, bundle = insecure
    urls = {**settings.ksef_urls, "test": f"https://127.0.0.1:{tls.port}/test/v2"}
    app = create_app(replace(settings, ksef_urls=urls, ksef_ca_bundle=bundle))
    client = app.test_client()
    asker.control.set_latarnia("test", "FAILURE")
    for number, endpoint in enumerate(ENDPOINTS, 1):
        answer = client.get(asker.path(endpoint), headers=asker.company.authorization)
        if stored:
            assert answer.status_code == 200
        else:
            assert_problem(answer, 502, "ksef_unreachable")
            assert answer.json["outage"]["consecutiveFailures"] == 0
            assert tls.connections == number
    app.extensions[EXTENSION].db.close()
    assert asker.calls() == []
    assert stored or asker.wrote_nothing()


@pytest.mark.fault(2)
def test_connection_that_is_not_secure(insecure: tuple[Door, str | None], control: Any) -> None:
    """No retry, no way around it, and nothing was sent."""
    tls, bundle = insecure
    ksef = http_to(f"https://127.0.0.1:{tls.port}", ca_bundle=bundle)
    with pytest.raises(errors.KsefUnreachable, match="No secure connection") as failure:
        ksef.send(PUBLIC_KEYS, bearer="secret")
    assert not isinstance(failure.value, NoAnswer)
    assert Retry(left=0, least=0, most=0).pause_after(failure.value) is None
    assert tls.connections == 1
    assert control.calls() == []


def test_operators_are_told_why_it_is_not_secure(
    insecure: tuple[Door, str | None],
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the log, of calls to KSeF, of downloads and of Latarnia; in commands; not callers."""
    tls, bundle = insecure
    url = f"https://127.0.0.1:{tls.port}"
    caplog.set_level("INFO")
    ksef = http_to(url, ca_bundle=bundle)
    with pytest.raises(errors.KsefUnreachable) as failure:
        ksef.send(PUBLIC_KEYS)
    assert ksef.download(f"{url}/upo") is None
    assert Latarnia(url, seconds=2, ca_bundle=bundle).ask() is None
    reason = REASONS[request.node.callspec.params["insecure"]]
    logged = [record.fields["reason"] for record in caplog.records]  # type: ignore[attr-defined]
    assert logged == [reason] * 3
    assert failure.value.in_full.endswith(f"could be made. Reason: {reason}")
    assert "TLS" not in failure.value.detail


def test_operators_are_told_why_the_proxy_makes_no_connection(door: Open) -> None:
    proxy = door()
    proxy.close()
    url = f"http://me:password@127.0.0.1:{proxy.port}"
    with pytest.raises(errors.KsefUnreachable) as failure:
        http_to("https://127.0.0.1:1", proxy_url=url).send(PUBLIC_KEYS)
    assert failure.value.reason == "KSEF_PROXY_URL: Connection refused"


@pytest.mark.parametrize("ksef_tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("proxy_tls", [False, True], ids=["by http", "by https"])
def test_proxy_of_the_settings_is_used(
    door: Open,
    sandbox: Any,
    secure_ksef: Door,
    ca: Ca,
    tmp_path: Path,
    ksef_tls: bool,
    proxy_tls: bool,
) -> None:
    proxy = door(certificate=ca.issue(tmp_path) if proxy_tls else None)
    scheme = "https" if proxy_tls else "http"
    url = f"https://127.0.0.1:{secure_ksef.port}" if ksef_tls else sandbox.url
    ksef = http_to(
        url,
        ca_bundle=str(ca.bundle),
        proxy_url=f"{scheme}://me:password@127.0.0.1:{proxy.port}",
    )
    assert json.loads(ksef.send(PUBLIC_KEYS).body)
    [head] = proxy.heads
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'me:password').decode()}" in head
    assert head.startswith("CONNECT " if ksef_tls else "GET http://")


def test_tls_that_never_begins_ends_in_time(ca: Ca) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(errors.KsefUnreachable, match="in time"):
            http_to(url, ca_bundle=str(ca.bundle)).send(PUBLIC_KEYS)
        assert 1 <= time.monotonic() - began <= 3


def test_dripping_body_over_tls_ends_in_time(secure_ksef: Door, ca: Ca, control: Any) -> None:
    control.fault("drip", secondsPerByte=0.02)
    ksef = http_to(f"https://127.0.0.1:{secure_ksef.port}", ca_bundle=str(ca.bundle))
    began = time.monotonic()
    with pytest.raises(errors.KsefUnreachable, match="in time"):
        ksef.send(PUBLIC_KEYS)
    assert 2 <= time.monotonic() - began <= 4
