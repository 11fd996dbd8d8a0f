"""Every row of the fault matrix has a test."""

import pytest

from tests.faults.__main__ import ROWS


def test_every_row_has_a_test(request: pytest.FixtureRequest) -> None:
    items = request.session.items
    whole = {"api", "journeys", "services", "upo"} <= {item.path.parent.name for item in items}
    if not whole or request.config.getoption("markexpr"):  # `make test` leaves slow ones out
        pytest.skip("only a part of the tests runs")
    proved = {row for item in items for mark in item.iter_markers("fault") for row in mark.args}
    assert proved == set(ROWS)
