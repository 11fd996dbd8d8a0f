"""Whatever the pages of a list are like, it is read whole, or not at all."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
import responses
from hypothesis import event, example, given
from hypothesis import strategies as st

from app import errors
from app.ksef.client import LARGEST_SESSION, Client, pages_of
from app.ksef.wire import Invoice
from tests.hypothesis_profile import tries
from tests.ksef import answers
from tests.ksef.answers import SESSION, URL

MAX_PAGES = 2 * pages_of(LARGEST_SESSION)
LOST = 21418
Pages = tuple[tuple[int, ...], ...]  # the ordinal numbers on each page; there may be none


@dataclass
class Ksef:
    """KSeF's side of a list.

    `pages`: what stands on them · `cycle`: to which earlier page the last one leads, if to any ·
    `lost`: the walks that lose their token, and before which page · `moving`: the tokens of one
    walk are not those of another. Each call gives the invoices another number, so that it can be
    told which of two pages an invoice was taken from.
    """

    pages: Pages
    cycle: int | None = None
    lost: dict[int, int] = field(default_factory=dict)
    moving: bool = False
    walk: int = 0
    calls: int = 0
    seen: dict[int, str] = field(default_factory=dict)  # what this walk was told last

    def __call__(self, request: Any) -> tuple[int, dict[str, str], str]:
        self.calls += 1
        token = request.headers.get("x-continuation-token")
        if token is None:
            self.walk, self.seen = self.walk + 1, {}
        page = 0 if token is None else self._page_of(token)
        if page == self.lost.get(self.walk):
            return 400, {}, json.dumps(answers.problem(LOST, "Nieprawidłowy token kontynuacji"))
        self.seen |= {ordinal: f"FV/{self.calls}/{ordinal}" for ordinal in self.pages[page]}
        invoices = [answers.invoice(n, invoiceNumber=self.seen[n]) for n in self.pages[page]]
        return 200, {}, json.dumps({"invoices": invoices, "continuationToken": self._next(page)})

    def _page_of(self, token: str) -> int:
        walk, page = token.split("/")
        assert walk == self._name_of_walk, "a token of an earlier walk"
        return int(page)

    @property
    def _name_of_walk(self) -> str:
        return str(self.walk if self.moving else 0)

    def _next(self, page: int) -> str | None:
        following = page + 1 if page + 1 < len(self.pages) else self.cycle
        return None if following is None else f"{self._name_of_walk}/{following}"

    def outcome(self) -> str:
        """What must come of it: `whole`, or why it cannot be had."""
        for walk in (1, 2):
            ends = "whole"
            if self.cycle is not None:
                ends = "repeats"
            if len(self.pages) > MAX_PAGES:
                ends = "too many"
            lost = self.lost.get(walk)
            if lost is None or lost >= min(len(self.pages), MAX_PAGES):
                return ends
        return "lost"


ordinals = st.integers(1, 40)
page = st.lists(ordinals, max_size=6).map(tuple)
pages = st.one_of(
    st.lists(page, min_size=1, max_size=8),
    st.lists(page, min_size=MAX_PAGES - 2, max_size=MAX_PAGES + 2),
).map(tuple)


@st.composite
def lists(draw: Any) -> Ksef:
    given = draw(pages)
    earlier = st.integers(1, len(given) - 1) if len(given) > 1 else st.none()
    return Ksef(
        given,
        cycle=draw(st.none() | st.none() | earlier),
        lost=draw(st.dictionaries(st.sampled_from((1, 2)), st.integers(1, len(given)), max_size=2)),
        moving=draw(st.booleans()),
    )


@pytest.mark.slow
@tries(60, 3000)
@given(ksef=lists())
@example(ksef=Ksef(((),)))
@example(ksef=Ksef(((1,), (), (), (2,))))
@example(ksef=Ksef(((2, 1), (2,), (1, 3)), moving=True))
@example(ksef=Ksef(((1, 1),)))
@example(ksef=Ksef(((1,), (2,), (3,)), cycle=1))
@example(ksef=Ksef(((1,), (2,)), cycle=1))
@example(ksef=Ksef(((1, 9), (2,)), lost={1: 1}, moving=True))
@example(ksef=Ksef(((1,), (2,)), lost={1: 1, 2: 1}))
@example(ksef=Ksef(((),) * (MAX_PAGES - 1) + ((1,),)))
@example(ksef=Ksef(((1,),) * (MAX_PAGES + 1)))
@example(ksef=Ksef(((1,),) * (MAX_PAGES + 1), lost={1: MAX_PAGES}))
def test_a_list_is_read_whole_or_not_at_all(client: Client, ksef: Ksef) -> None:
    ksef.walk, ksef.calls = 0, 0  # an explicit example may be run again
    expected = ksef.outcome()
    event(expected)
    with responses.RequestsMock() as http:
        http.add_callback(responses.GET, f"{URL}/sessions/{SESSION}/invoices", ksef)
        outcome, found = listed(client)
    assert outcome == expected
    if outcome == "whole":
        assert {i.ordinal_number: i.invoice_number for i in found} == ksef.seen
        assert [i.ordinal_number for i in found] == sorted(ksef.seen)
    assert ksef.calls <= 2 * MAX_PAGES


def listed(client: Client) -> tuple[str, list[Invoice]]:
    """The outcome, in the words of `Ksef.outcome`, and the list."""
    try:
        return "whole", client.session_invoices(SESSION, expected=0, seconds=60)
    except errors.KsefInvalidResponse as error:
        return ("repeats" if "repeats a continuation token" in error.detail else "too many"), []
    except errors.KsefError as error:
        return ("lost" if error.ksef and error.ksef.code == LOST else error.detail), []
