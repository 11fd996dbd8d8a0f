"""Fixtures of the sandbox's own tests: real HTTP over sockets, the clock of the sandbox."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from sandbox.control import Control
from tests.sandbox.ksef_client import NIP, Client
from tests.sandbox.official import Contract


@pytest.fixture
def make_client(sandbox: Any) -> Iterator[Callable[..., Client]]:
    """Makes clients that have not logged in, and closes their connections."""
    clients: list[Client] = []

    def make(environment: str = "test", nip: str = NIP) -> Client:
        clients.append(Client(f"{sandbox.url}/{environment}/v2", nip))
        return clients[-1]

    yield make
    for client in clients:
        client.http.close()


@pytest.fixture
def client(make_client: Callable[..., Client], control: Control) -> Client:
    """A client of TEST, logged in."""
    return make_client().log_in(control.add_token("test", NIP))


@pytest.fixture
def download() -> Iterator[Callable[..., requests.Response]]:
    """GETs any address without a bearer: download links, Latarnia."""
    with requests.Session() as http:
        http.trust_env = False

        def get(url: str, **options: Any) -> requests.Response:
            return http.get(url, timeout=10, **options)

        yield get


@pytest.fixture(scope="session")
def contract() -> Contract:
    """The official document; tests that need it are skipped where KSEF_OPENAPI is unset."""
    path = os.environ.get("KSEF_OPENAPI")
    if not path:
        pytest.skip("KSEF_OPENAPI is unset")
    return Contract(Path(path))
