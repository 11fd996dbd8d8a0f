"""Lists of texts as array literals of PostgreSQL.

psycopg2 writes ARRAY['…', '…'], in which every text is an expression: PostgreSQL has to parse and
psycopg2 to quote ten thousand of them where one literal says the same.
"""

from collections.abc import Sequence
from types import NoneType
from typing import Any

from psycopg2 import extensions

_as_ever: Any = extensions.adapters[list, extensions.ISQLQuote]


class _Texts:
    """A list in the protocol by which psycopg2 asks how a value is written."""

    def __init__(self, texts: Sequence[str | None]) -> None:
        self._literal = extensions.QuotedString(_literal(texts))

    def prepare(self, connection: extensions.connection) -> None:
        self._literal.prepare(connection)

    def getquoted(self) -> bytes:
        return self._literal.getquoted() + b"::text[]"


def adapted(values: list[Any]) -> Any:
    """How psycopg2 is to write a list; one of anything but texts as it always does."""
    if all(issubclass(kind, str | NoneType) for kind in set(map(type, values))):
        return _Texts(values)
    return _as_ever(values)


def _literal(texts: Sequence[str | None]) -> str:
    if texts and None not in texts:
        joined = '","'.join(texts)  # type: ignore[arg-type]
        if joined.count('"') == 2 * len(texts) - 2 and "\\" not in joined:
            return f'{{"{joined}"}}'
    return "{" + ",".join(map(_element, texts)) + "}"


def _element(text: str | None) -> str:
    if text is None:
        return "NULL"
    return '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'
