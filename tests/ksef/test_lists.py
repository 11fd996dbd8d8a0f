"""KSeF's lists, whatever their pages are like."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import responses
from responses.matchers import header_matcher, query_param_matcher

from app import errors
from app.ksef import limits
from app.ksef.client import LARGEST_SESSION, PAGE_SIZE, Client, pages_of
from app.ksef.http import JSON_LIMIT, LONG_LIMIT
from app.settings import Settings
from tests.ksef import answers
from tests.ksef.answers import SESSION, URL
from tests.ksef.conftest import Company

LISTS = limits.INVOICE_LIST
MAX_PAGES = 2 * pages_of(LARGEST_SESSION)


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


def listed(client: Client, seconds: float = 5) -> list[int]:
    found = client.session_invoices(SESSION, expected=0, seconds=seconds)
    return [invoice.ordinal_number for invoice in found]


def lost_token(ksef: responses.RequestsMock, code: int = 21418) -> None:
    url = f"{URL}/sessions/{SESSION}/invoices"
    ksef.get(url, status=400, json=answers.problem(code, "Nieprawidłowy token kontynuacji"))


def test_pages_are_joined_and_put_in_order(pages: Callable[..., None], client: Client) -> None:
    pages(((5, 2), "b"), ((4, 1), "c"), ((3,), None))
    assert listed(client) == [1, 2, 3, 4, 5]


def test_an_empty_session(pages: Callable[..., None], client: Client) -> None:
    pages(((), None))
    assert listed(client) == []


def test_an_empty_page_with_a_token_is_not_the_end(
    pages: Callable[..., None], client: Client
) -> None:
    pages(((1,), "b"), ((), "c"), ((), "d"), ((2,), None))
    assert listed(client) == [1, 2]


def test_an_invoice_on_two_pages_counts_once_as_it_was_last_seen(
    ksef: responses.RequestsMock, client: Client
) -> None:
    moving = answers.invoice(2, ksefNumber=None, status={"code": 150, "description": "W toku"})
    url = f"{URL}/sessions/{SESSION}/invoices"
    ksef.get(url, json={"invoices": [answers.invoice(1), moving], "continuationToken": "b"})
    ksef.get(url, json=answers.invoice_page(2, 3))
    found = client.session_invoices(SESSION, expected=0, seconds=5)
    assert [invoice.ordinal_number for invoice in found] == [1, 2, 3]
    assert found[1].is_accepted


@pytest.mark.parametrize("tokens", [("a", "a"), ("a", "b", "a")], ids=["repeats", "cycles"])
def test_a_token_that_comes_again_breaks_the_contract(
    pages: Callable[..., None], client: Client, tokens: tuple[str, ...]
) -> None:
    pages(*(((number,), token) for number, token in enumerate(tokens)))
    with pytest.raises(errors.KsefInvalidResponse, match="repeats a continuation token"):
        listed(client)


def test_as_many_pages_as_there_may_be(pages: Callable[..., None], client: Client) -> None:
    pages(*(((n,), f"t{n}" if n < MAX_PAGES else None) for n in range(1, MAX_PAGES + 1)))
    assert listed(client) == list(range(1, MAX_PAGES + 1))


def test_one_page_more_breaks_the_contract(pages: Callable[..., None], client: Client) -> None:
    pages(*(((n,), f"t{n}") for n in range(1, MAX_PAGES + 1)))
    with pytest.raises(errors.KsefInvalidResponse, match="more than 20 pages"):
        listed(client)


@pytest.mark.parametrize(
    ("expected", "units"), [(0, 1), (PAGE_SIZE, 1), (PAGE_SIZE + 1, 2), (21 * PAGE_SIZE, 21)]
)
def test_quota_of_all_pages_is_set_aside_first(
    pages: Callable[..., None], client: Client, company: Company, expected: int, units: int
) -> None:
    pages(((1,), None))
    client.session_invoices(SESSION, expected=expected, seconds=5)
    assert company.noted[0] == ("reserve", LISTS, units)


@pytest.mark.fault(36)
def test_the_lists_of_the_largest_session_fit_our_share_of_a_minute() -> None:
    """Else the largest sessions could never be listed."""
    share = Settings.__dataclass_fields__["quota_share"].default
    assert pages_of(LARGEST_SESSION) <= int(share * limits.PUBLISHED[LISTS].per_minute)


@pytest.mark.fault(36)
def test_a_session_beyond_the_published_limit_is_read_whole(
    pages: Callable[..., None], client: Client
) -> None:
    count = 2 * MAX_PAGES
    pages(*(((n,), f"t{n}" if n < count else None) for n in range(1, count + 1)))
    found = client.session_invoices(SESSION, expected=MAX_PAGES * PAGE_SIZE, seconds=5)
    assert len(found) == count


def test_more_than_can_be_listed_in_an_hour_breaks_the_contract_and_costs_no_quota(
    ksef: responses.RequestsMock, client: Client, company: Company
) -> None:
    expected = PAGE_SIZE * limits.PUBLISHED[LISTS].per_hour + 1
    with pytest.raises(errors.KsefInvalidResponse, match=f"counts {expected} invoices"):
        client.session_invoices(SESSION, expected=expected, seconds=5)
    assert company.noted == []
    assert len(ksef.calls) == 0


@pytest.mark.fault(36)
def test_a_page_longer_than_json_is_read_and_one_too_long_in_smaller_pages(
    ksef: responses.RequestsMock, client: Client, company: Company
) -> None:
    url = f"{URL}/sessions/{SESSION}/invoices"

    def size(number: int) -> Any:
        return query_param_matcher({"pageSize": str(number)})

    ksef.get(url, body=long(answers.invoice_page(1, token="b"), JSON_LIMIT), match=[size(1000)])
    too_long = long(answers.invoice_page(2), LONG_LIMIT)
    ksef.get(url, body=too_long, match=[size(1000), carries("b")])
    ksef.get(url, body=too_long, match=[size(100), carries("b")])
    ksef.get(url, json=answers.invoice_page(2, token="c"), match=[size(10), carries("b")])
    ksef.get(url, body=too_long, match=[size(10), carries("c")])
    with pytest.raises(errors.KsefInvalidResponse, match="too long"):
        client.session_invoices(SESSION, expected=2, seconds=60)
    assert company.noted.count(LISTS) == 5


def long(page: Any, size: int) -> bytes:
    """A page as JSON, longer than `size` bytes."""
    return json.dumps(page).encode() + b" " * size


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "x" * 2**20], ids=["crlf", "1 MB"])
def test_a_token_that_fits_no_header_breaks_the_contract(
    ksef: responses.RequestsMock, client: Client, token: str
) -> None:
    ksef.get(f"{URL}/sessions/{SESSION}/invoices", json=answers.invoice_page(1, token=token))
    with pytest.raises(errors.KsefInvalidResponse, match="continuation token"):
        listed(client)


def test_a_lost_token_starts_the_list_again(
    ksef: responses.RequestsMock, pages: Callable[..., None], client: Client
) -> None:
    pages(((1,), "b"))
    lost_token(ksef)
    pages(((1, 2), "b"), ((3,), None))
    assert listed(client) == [1, 2, 3]


def test_what_was_seen_before_a_new_start_is_forgotten(
    ksef: responses.RequestsMock, pages: Callable[..., None], client: Client
) -> None:
    pages(((1, 9), "b"))
    lost_token(ksef)
    pages(((1,), None))
    assert listed(client) == [1]


def test_a_token_lost_twice_is_an_error(
    ksef: responses.RequestsMock, pages: Callable[..., None], client: Client
) -> None:
    pages(((1,), "b"))
    lost_token(ksef)
    pages(((1,), "c"))
    lost_token(ksef)
    with pytest.raises(errors.KsefError) as caught:
        listed(client)
    assert caught.value.ksef.code == 21418
    assert len(ksef.calls) == 4


def test_another_refusal_on_the_way_starts_nothing_again(
    ksef: responses.RequestsMock, pages: Callable[..., None], client: Client
) -> None:
    pages(((1,), "b"))
    lost_token(ksef, code=21001)
    with pytest.raises(errors.KsefError) as caught:
        listed(client)
    assert caught.value.ksef.code == 21001
    assert len(ksef.calls) == 2


def test_a_429_on_the_way_gives_no_half_list(
    ksef: responses.RequestsMock, pages: Callable[..., None], client: Client
) -> None:
    pages(((1,), "b"))
    url = f"{URL}/sessions/{SESSION}/invoices"
    ksef.get(url, status=429, headers={"Retry-After": "2680"})
    with pytest.raises(errors.KsefRateLimited) as caught:
        listed(client)
    assert caught.value.retry_after == 2680


def test_no_page_is_asked_for_after_the_deadline(
    ksef: responses.RequestsMock, client: Client
) -> None:
    with pytest.raises(errors.KsefUnreachable, match="in time"):
        listed(client, seconds=-1)
    assert len(ksef.calls) == 0


def test_a_token_refused_on_the_way_is_renewed(
    pages: Callable[..., None], ksef: responses.RequestsMock, client: Client
) -> None:
    pages(((1,), "b"))
    ksef.get(f"{URL}/sessions/{SESSION}/invoices", status=401, match=[carries("b")])
    ksef.get(
        f"{URL}/sessions/{SESSION}/invoices",
        json=answers.invoice_page(2),
        match=[carries("b"), header_matcher({"Authorization": "Bearer refreshed"})],
    )
    assert listed(client) == [1, 2]


@pytest.mark.parametrize("code", [21173, 21405])
def test_no_such_session(ksef: responses.RequestsMock, client: Client, code: int) -> None:
    lost_token(ksef, code)
    with pytest.raises(errors.SessionNotFound):
        listed(client)


class TestSessions:
    """The list of the company's sessions."""

    url = f"{URL}/sessions"

    def names(self, *numbers: int, token: str | None = None) -> dict[str, Any]:
        sessions = [
            {
                **answers.session_status(),
                "referenceNumber": name(number),
                "totalInvoiceCount": number,
            }
            for number in numbers
        ]
        return {"sessions": sessions, "continuationToken": token}

    def test_the_newest(self, ksef: responses.RequestsMock, client: Client) -> None:
        query = {
            "sessionType": "Batch",
            "pageSize": str(PAGE_SIZE),
            "dateCreatedFrom": "2026-01-15T11:00:00+00:00",
        }
        ksef.get(self.url, json=self.names(1, 2, token="more"), match=[query_param_matcher(query)])
        found = client.sessions("Batch", datetime(2026, 1, 15, 11, tzinfo=UTC))
        assert [session.reference_number for session in found] == [name(1), name(2)]
        assert [session.invoice_count for session in found] == [1, 2]

    def test_all_of_them(self, ksef: responses.RequestsMock, client: Client) -> None:
        query = query_param_matcher({"sessionType": "Online", "pageSize": str(PAGE_SIZE)})
        ksef.get(self.url, json=self.names(1, 2, token="b"), match=[query, carries(None)])
        ksef.get(self.url, json=self.names(token="c"), match=[query, carries("b")])
        ksef.get(self.url, json=self.names(3), match=[query, carries("c")])
        found = [session.reference_number for session in client.all_sessions("Online")]
        assert found == [name(1), name(2), name(3)]

    def test_a_lost_token_starts_the_list_again_once(
        self, ksef: responses.RequestsMock, client: Client
    ) -> None:
        lost = answers.problem(21418)
        ksef.get(self.url, json=self.names(1, 2, token="b"))
        ksef.get(self.url, status=400, json=lost, match=[carries("b")])
        ksef.get(self.url, json=self.names(1, 2, token="c"), match=[carries(None)])
        ksef.get(self.url, json=self.names(3, token="d"), match=[carries("c")])
        ksef.get(self.url, status=400, json=lost, match=[carries("d")])
        sessions = client.all_sessions("Online")
        found = [next(sessions).reference_number for _ in range(3)]
        assert found == [name(1), name(2), name(3)]
        with pytest.raises(errors.KsefError, match="Powód"):
            next(sessions)


def name(number: int) -> str:
    return f"20260115-SO-{number:010X}-ABCDEF0123-4F"
