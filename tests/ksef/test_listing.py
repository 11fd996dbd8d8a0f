"""All invoices of a session, whatever its pages are like."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import responses
from responses.matchers import header_matcher

from app import errors
from app.ksef.gateway import Gateway, Route
from app.ksef.listing import MAX_PAGES, all_invoices
from tests.ksef import answers
from tests.ksef.answers import SESSION, URL

T = TypeVar("T")


class SameBearer:
    """A company's KSeF session whose access token is always the same."""

    def reserve(self, route: Route, units: int) -> None:
        pass

    def call(self, route: Route, send: Callable[[str], T]) -> T:
        return send("access")


class Reserving(SameBearer):
    """One that notes what is set aside."""

    def __init__(self) -> None:
        self.units: list[int] = []

    def reserve(self, route: Route, units: int) -> None:
        self.units.append(units)


@pytest.fixture
def pages(ksef: responses.RequestsMock) -> Callable[..., None]:
    """Prepare pages `(ordinals, token of the next page)`; each is asked for with its token."""

    def prepare(*given: tuple[tuple[int, ...], str | None]) -> None:
        asked_with: str | None = None
        for ordinals, token in given:
            ksef.get(
                f"{URL}/sessions/{SESSION}/invoices",
                json=answers.invoice_page(*ordinals, token=token),
                match=[carries(asked_with)],
            )
            asked_with = token

    return prepare


def carries(token: str | None) -> Callable[[Any], tuple[bool, str]]:
    """Matches a request that carries this continuation token, or none."""
    if token is not None:
        return header_matcher({"x-continuation-token": token})
    return lambda request: ("x-continuation-token" not in request.headers, "a token was sent")


def listed(gateway: Gateway, seconds: float = 5) -> list[int]:
    found = all_invoices(gateway, SameBearer(), SESSION, expected=0, seconds=seconds)
    return [invoice.ordinal_number for invoice in found]


def lost_token(ksef: responses.RequestsMock, code: int = 21418) -> None:
    url = f"{URL}/sessions/{SESSION}/invoices"
    ksef.get(url, status=400, json=answers.problem(code, "Nieprawidłowy token kontynuacji"))


def test_pages_are_joined_and_put_in_order(pages: Callable[..., None], gateway: Gateway) -> None:
    pages(((5, 2), "b"), ((4, 1), "c"), ((3,), None))
    assert listed(gateway) == [1, 2, 3, 4, 5]


def test_an_empty_session(pages: Callable[..., None], gateway: Gateway) -> None:
    pages(((), None))
    assert listed(gateway) == []


def test_an_empty_page_with_a_token_is_not_the_end(
    pages: Callable[..., None], gateway: Gateway
) -> None:
    pages(((1,), "b"), ((), "c"), ((), "d"), ((2,), None))
    assert listed(gateway) == [1, 2]


def test_an_invoice_on_two_pages_counts_once_as_it_was_last_seen(
    ksef: responses.RequestsMock, gateway: Gateway
) -> None:
    moving = answers.invoice(2, ksefNumber=None, status={"code": 150, "description": "W toku"})
    url = f"{URL}/sessions/{SESSION}/invoices"
    ksef.get(url, json={"invoices": [answers.invoice(1), moving], "continuationToken": "b"})
    ksef.get(url, json=answers.invoice_page(2, 3))
    found = all_invoices(gateway, SameBearer(), SESSION, expected=0, seconds=5)
    assert [invoice.ordinal_number for invoice in found] == [1, 2, 3]
    assert found[1].is_accepted


@pytest.mark.parametrize("tokens", [("a", "a"), ("a", "b", "a")], ids=["repeats", "cycles"])
def test_a_token_that_comes_again_breaks_the_contract(
    pages: Callable[..., None], gateway: Gateway, tokens: tuple[str, ...]
) -> None:
    pages(*(((number,), token) for number, token in enumerate(tokens)))
    with pytest.raises(errors.KsefInvalidResponse, match="repeats a continuation token"):
        listed(gateway)


def test_as_many_pages_as_there_may_be(pages: Callable[..., None], gateway: Gateway) -> None:
    pages(*(((n,), f"t{n}" if n < MAX_PAGES else None) for n in range(1, MAX_PAGES + 1)))
    assert listed(gateway) == list(range(1, MAX_PAGES + 1))


def test_one_page_more_breaks_the_contract(pages: Callable[..., None], gateway: Gateway) -> None:
    pages(*(((n,), f"t{n}") for n in range(1, MAX_PAGES + 1)))
    with pytest.raises(errors.KsefInvalidResponse, match="more than 20 pages"):
        listed(gateway)


@pytest.mark.parametrize(("expected", "units"), [(0, 1), (1000, 1), (1001, 2), (20_000, 20)])
def test_quota_of_all_pages_is_set_aside_first(
    pages: Callable[..., None], gateway: Gateway, expected: int, units: int
) -> None:
    bearer = Reserving()
    pages(((1,), None))
    all_invoices(gateway, bearer, SESSION, expected=expected, seconds=5)
    assert bearer.units == [units]


@pytest.mark.parametrize("expected", [20_001, 2 * 10**8])
def test_more_than_a_session_can_hold_breaks_the_contract_and_costs_no_quota(
    ksef: responses.RequestsMock, gateway: Gateway, expected: int
) -> None:
    bearer = Reserving()
    with pytest.raises(errors.KsefInvalidResponse, match=f"counts {expected} invoices"):
        all_invoices(gateway, bearer, SESSION, expected=expected, seconds=5)
    assert bearer.units == []
    assert len(ksef.calls) == 0


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "x" * 2**20], ids=["crlf", "1 MB"])
def test_a_token_that_fits_no_header_breaks_the_contract(
    ksef: responses.RequestsMock, gateway: Gateway, token: str
) -> None:
    ksef.get(f"{URL}/sessions/{SESSION}/invoices", json=answers.invoice_page(1, token=token))
    with pytest.raises(errors.KsefInvalidResponse, match="continuation token"):
        listed(gateway)


def test_a_lost_token_starts_the_list_again(
    ksef: responses.RequestsMock, pages: Callable[..., None], gateway: Gateway
) -> None:
    pages(((1,), "b"))
    lost_token(ksef)
    pages(((1, 2), "b"), ((3,), None))
    assert listed(gateway) == [1, 2, 3]


def test_what_was_seen_before_a_new_start_is_forgotten(
    ksef: responses.RequestsMock, pages: Callable[..., None], gateway: Gateway
) -> None:
    pages(((1, 9), "b"))
    lost_token(ksef)
    pages(((1,), None))
    assert listed(gateway) == [1]


def test_a_token_lost_twice_is_an_error(
    ksef: responses.RequestsMock, pages: Callable[..., None], gateway: Gateway
) -> None:
    pages(((1,), "b"))
    lost_token(ksef)
    pages(((1,), "c"))
    lost_token(ksef)
    with pytest.raises(errors.KsefError) as caught:
        listed(gateway)
    assert caught.value.ksef.code == 21418
    assert len(ksef.calls) == 4


def test_another_refusal_on_the_way_starts_nothing_again(
    ksef: responses.RequestsMock, pages: Callable[..., None], gateway: Gateway
) -> None:
    pages(((1,), "b"))
    lost_token(ksef, code=21001)
    with pytest.raises(errors.KsefError) as caught:
        listed(gateway)
    assert caught.value.ksef.code == 21001
    assert len(ksef.calls) == 2


def test_a_429_on_the_way_gives_no_half_list(
    ksef: responses.RequestsMock, pages: Callable[..., None], gateway: Gateway
) -> None:
    pages(((1,), "b"))
    url = f"{URL}/sessions/{SESSION}/invoices"
    ksef.get(url, status=429, headers={"Retry-After": "2680"})
    with pytest.raises(errors.KsefRateLimited) as caught:
        listed(gateway)
    assert caught.value.retry_after == 2680


def test_no_page_is_asked_for_after_the_deadline(
    ksef: responses.RequestsMock, gateway: Gateway
) -> None:
    with pytest.raises(errors.KsefUnreachable, match="in time"):
        listed(gateway, seconds=-1)
    assert len(ksef.calls) == 0


def test_every_page_asks_for_a_good_bearer(
    pages: Callable[..., None], ksef: responses.RequestsMock, gateway: Gateway
) -> None:
    class Renewed:
        bearers = iter(["first", "second"])

        def reserve(self, route: Route, units: int) -> None:
            pass

        def call(self, route: Route, send: Callable[[str], T]) -> T:
            return send(next(self.bearers))

    pages(((1,), "b"), ((2,), None))
    all_invoices(gateway, Renewed(), SESSION, expected=0, seconds=5)
    sent = [call.request.headers["Authorization"] for call in ksef.calls]
    assert sent == ["Bearer first", "Bearer second"]
