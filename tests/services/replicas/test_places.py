"""Places for threads with KSeF: how many there are, and for whom."""

import threading
from contextlib import ExitStack, suppress

import pytest

from app import clock, errors
from app.services.replicas.places import Places


def taken(places: Places, company_nip: str, held: ExitStack) -> int:
    """How many places a company gets until it is refused."""
    number = 0
    with suppress(errors.Busy):
        while True:
            held.enter_context(places.one(company_nip))
            number += 1
    return number


@pytest.mark.parametrize(
    ("threads", "alone", "newcomers"),
    [(1, 1, 0), (2, 1, 0), (3, 2, 0), (4, 3, 0), (8, 6, 1), (16, 12, 3)],
)
def test_three_of_four_threads_and_one_for_who_has_none(
    threads: int, alone: int, newcomers: int
) -> None:
    places = Places(threads, wait=0.0, retry_after=5)
    for _ in range(2):  # the second time shows that all were given back
        with ExitStack() as held:
            assert taken(places, "A", held) == alone
            assert [taken(places, nip, held) for nip in "BCDE"] == [
                1 if number < newcomers else 0 for number in range(4)
            ]


def test_while_several_have_some_each_gets_half() -> None:
    places = Places(8, wait=0.0, retry_after=5)
    with ExitStack() as held:
        held.enter_context(places.one("B"))
        assert taken(places, "A", held) == 3
        assert taken(places, "B", held) == 2


def test_an_error_gives_its_place_back() -> None:
    places = Places(1, wait=0.0, retry_after=5)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), places.one("A"):
            raise ZeroDivisionError


def test_a_place_is_waited_for_until_that_was_in_vain() -> None:
    places = Places(1, wait=10.0, retry_after=5)
    free, done = threading.Event(), threading.Event()

    def hold() -> None:
        with places.one("A"):
            free.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert free.wait(10)
    threading.Timer(0.1, done.set).start()
    with places.one("A"):  # given when the other one is done
        holder.join(10)
        impatient = Places(1, wait=0.2, retry_after=5)
        with impatient.one("A"):
            waits = []
            for _ in range(3):
                began = clock.monotonic()
                with pytest.raises(errors.Busy) as refused, impatient.one("A"):
                    pass
                assert refused.value.retry_after == 5
                waits.append(clock.monotonic() - began)
    assert waits[0] >= 0.2
    assert max(waits[1:]) < 0.2
