"""A KSeF of prepared answers: `ksef` refuses every call that a test did not foresee."""

from collections.abc import Iterator

import pytest
import responses
from responses.registries import OrderedRegistry

from app.ksef.gateway import Gateway
from app.ksef.transport import Transport
from tests.ksef.answers import URL


@pytest.fixture
def ksef() -> Iterator[responses.RequestsMock]:
    """Answers in the order in which they were prepared; all of them must have been fetched."""
    with responses.RequestsMock(registry=OrderedRegistry) as prepared:
        yield prepared


@pytest.fixture
def transport() -> Transport:
    return Transport("test", URL, connect=1, call=2, threads=2)


@pytest.fixture
def gateway(transport: Transport) -> Gateway:
    return Gateway(transport)
