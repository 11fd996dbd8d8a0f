"""Lists of texts on their way to a real PostgreSQL and back."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest

from app.db import pool

ODD = [
    "",
    "NULL",
    "null",
    '"',
    "\\",
    '\\"',
    "{a,b}",
    "a,b",
    " a ",
    "'",
    "%s %(x)s",
    "\n\t\r",
    "ż€😀",
]


@pytest.fixture
def cursor(database_server: Any) -> Iterator[Any]:
    assert pool.Database, "which has lists of texts written as literals"
    with closing(psycopg2.connect(database_server.admin_dsn)) as connection:
        yield connection.cursor()


@pytest.mark.parametrize("texts", [[], ODD, [None], [None, *ODD, None]], ids=len)
def test_texts_arrive_as_they_are(cursor: Any, texts: list[str | None]) -> None:
    cursor.execute("SELECT %s::text[], cardinality(%s::text[])", (texts, texts))
    assert cursor.fetchone() == (texts, len(texts))


def test_they_are_one_literal(cursor: Any) -> None:
    assert cursor.mogrify("%s", (["a", None, 'b"'],)) == rb"""'{"a",NULL,"b\""}'::text[]"""


def test_they_are_what_they_are_compared_with_or_cast_to(cursor: Any) -> None:
    cursor.execute(
        "SELECT 'b' = ANY (%(texts)s), ARRAY['b'] && %(texts)s, unnest(%(jsons)s::jsonb[]) ->> 'c'",
        {"texts": ["a", "b"], "jsons": ['{"c": "\\"d\\\\"}']},
    )
    assert cursor.fetchone() == (True, True, '"d\\')


@pytest.mark.parametrize("values", [[1, 2], [0.5], [datetime(2026, 2, 1, tzinfo=UTC)], [True]])
def test_other_lists_are_written_as_ever(cursor: Any, values: list[Any]) -> None:
    cursor.execute("SELECT %s", (values,))
    assert cursor.fetchone() == (values,)


def test_nul_is_refused(cursor: Any) -> None:
    with pytest.raises(ValueError, match="NUL"):
        cursor.execute("SELECT %s::text[]", (["a\0b"],))
