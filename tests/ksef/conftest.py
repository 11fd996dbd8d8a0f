"""A KSeF of prepared answers: `ksef` refuses every call that a test did not foresee."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import responses
from responses.registries import OrderedRegistry

from app import errors
from app.ksef.client import Client
from app.ksef.failures import Retry
from app.ksef.http import Http
from app.ksef.metered import Metered
from tests.ksef.answers import URL

SOON = Retry(left=0.0, least=0.0, most=0.001)


@dataclass
class Company:
    """A company's tokens, quota and outage, which note what they are asked for.

    `bearers`: the access tokens, the next one after each renewal · `units`: how many more calls the
    quota allows · `down`: raised before each call.
    """

    bearers: list[str] = field(default_factory=lambda: ["access", "refreshed", "logged in"])
    units: int = 1_000_000
    down: errors.KsefFailure | None = None
    noted: list[object] = field(default_factory=list)

    def access_token(self) -> str:
        return self.bearers[0]

    def renew(self, *, by_login: bool) -> None:
        self.noted.append("login" if by_login else "refresh")
        del self.bearers[0]

    def reserve(self, group: str, units: int) -> None:
        self.noted.append(("reserve", group, units))
        if units > self.units:
            raise errors.KsefRateLimited("No quota.")
        self.units -= units

    def wait_for_turn(self, group: str) -> None:
        self.noted.append(group)

    def block(self, group: str, seconds: int) -> None:
        self.noted.append(("block", group, seconds))

    def give_back(self) -> None:
        self.noted.append("give back")

    def check(self) -> None:
        if self.down:
            raise self.down

    def answered(self) -> None:
        self.noted.append("answered")

    def failed(self, error: errors.KsefFailure) -> None:
        self.noted.append(("failed", error.health))


@pytest.fixture
def ksef() -> Iterator[responses.RequestsMock]:
    """Answers in the order in which they were prepared; all of them must have been fetched."""
    with responses.RequestsMock(registry=OrderedRegistry) as prepared:
        yield prepared


@pytest.fixture
def http() -> Http:
    return Http("test", URL, connect=1, call=2, threads=2)


@pytest.fixture
def company() -> Company:
    return Company()


@pytest.fixture
def metered(http: Http, company: Company) -> Metered:
    return Metered(http, company, company, SOON)


@pytest.fixture
def client(metered: Metered, company: Company) -> Client:
    return Client(metered, company, company)
