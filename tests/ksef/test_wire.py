"""KSeF's JSON, as it should be and as it should not."""

import json
import string
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import KsefHealth, KsefInvalidResponse
from app.ksef import wire
from tests.ksef import answers
from tests.ksef.answers import replaced, without

Path = tuple[str | int, ...]

PAGE = {
    "invoices": [answers.invoice(1), answers.duplicate(2)],
    "continuationToken": "next",
}
DOWNLOAD = {
    "downloadUrl": "https://storage.example/upo?sig=1",
    "downloadUrlExpirationDate": "2026-01-18T11:00:00+00:00",
}
UPO_PAGES = {"pages": [{"referenceNumber": "20260115-EU-0123456789-ABCDEF0123-4F", **DOWNLOAD}]}
SESSION = answers.session_status(upo=UPO_PAGES)
LISTED = {
    **without(SESSION, "invoiceCount"),
    "referenceNumber": answers.SESSION,
    "totalInvoiceCount": 4,
}
SESSIONS = {"sessions": [LISTED], "continuationToken": "next"}
INVOICE = answers.invoice(
    upoDownloadUrl="https://storage.example/invoice?sig=2",
    upoDownloadUrlExpirationDate="2026-01-19T11:00:00+00:00",
)
LOGIN_STATUS = {"status": {"code": 100, "description": "W toku", "details": ["Chwila."]}}
SHAPES: list[tuple[Any, Any]] = [
    (wire.Session, SESSION),
    (wire.SessionPage, SESSIONS),
    (wire.Invoice, INVOICE),
    (wire.InvoicePage, PAGE),
    (list[wire.PublicKey], [answers.public_key()]),
    (wire.Challenge, answers.challenge()),
    (wire.StartedLogin, answers.started_login()),
    (wire.LoginStatus, LOGIN_STATUS),
    (wire.Tokens, answers.tokens()),
    (wire.Refreshed, {"accessToken": answers.token()}),
]
REQUIRED = {
    *("status", "code", "dateCreated", "dateUpdated", "ordinalNumber", "referenceNumber"),
    *("invoices", "sessions", "challenge", "timestampMs", "authenticationToken", "token"),
    *("accessToken", "refreshToken"),
}
TEXTS = {"description", "details", "invoiceNumber", "usage", "publicKeyId", "certificate"}
UNREAD = {"timestamp"}
IDS = [str(shape) for shape, _ in SHAPES]
BREACH = "KSeF's answer breaks its contract: "


def read(shape: Any, body: Any) -> Any:
    return wire.decode(shape, json.dumps(body).encode())


def paths(json: Any, so_far: Path = ()) -> list[Path]:
    """Where there is a value in an answer: the whole of it, and every member at any depth."""
    if not isinstance(json, dict | list):
        return [so_far]
    members = json.items() if isinstance(json, dict) else enumerate(json)
    return [so_far, *(path for name, value in members for path in paths(value, (*so_far, name)))]


def name_of(path: Path) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".") or "the body"


def said(shape: Any, body: Any) -> str:
    """What is said of a body that breaks the contract."""
    with pytest.raises(KsefInvalidResponse) as caught:
        read(shape, body)
    assert caught.value.health is KsefHealth.ANSWERING
    return caught.value.detail.removeprefix(BREACH)


@pytest.mark.parametrize(
    ("shape", "body", "path", "name"),
    [
        (wire.Session, answers.session_status(), ("status", "code"), "status.code"),
        (
            wire.Session,
            answers.session_status(),
            ("upo", "pages", 0, "referenceNumber"),
            "upo.pages[0].referenceNumber",
        ),
        (wire.InvoicePage, PAGE, ("invoices", 1, "ordinalNumber"), "invoices[1].ordinalNumber"),
        (wire.Tokens, answers.tokens(), ("refreshToken", "token"), "refreshToken.token"),
    ],
)
def test_a_missing_or_wrong_field_is_named(shape: Any, body: Any, path: Path, name: str) -> None:
    assert said(shape, without(body, *path)) == f"{name}: is not there."
    assert said(shape, replaced(body, True, *path)).startswith(f"{name}: expected `")


@pytest.mark.parametrize(("shape", "body"), SHAPES, ids=IDS)
def test_every_value_of_another_type_is_named(shape: Any, body: Any) -> None:
    for path in paths(body):
        if UNREAD.isdisjoint(path):
            breach = said(shape, replaced(body, 1.5, *path))  # no field of KSeF's is a fraction
            assert breach.startswith(f"{name_of(path)}: expected `"), breach


@pytest.mark.parametrize(("shape", "body"), SHAPES, ids=IDS)
def test_a_field_without_a_value_is_as_good_as_none_or_a_breach(shape: Any, body: Any) -> None:
    for path in paths(body):
        if not path or isinstance(path[-1], int) or path[-1] in UNREAD:
            continue
        null, absent = replaced(body, None, *path), without(body, *path)
        if path[-1] in REQUIRED or (path[-1] == "validUntil" and len(path) > 1):  # of a token
            assert said(shape, absent) == f"{name_of(path)}: is not there."
            assert said(shape, null).startswith(f"{name_of(path)}: expected `")
        else:
            assert read(shape, null) == read(shape, absent)


@pytest.mark.parametrize(("shape", "body"), SHAPES, ids=IDS)
def test_unknown_fields_are_ignored(shape: Any, body: Any) -> None:
    expected = read(shape, body)
    for path in paths(body):
        value = body
        for step in path:
            value = value[step]
        if isinstance(value, dict):
            assert read(shape, replaced(body, {**value, "brandNew": [{}]}, *path)) == expected


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(["9999-12-31T23:59:59.9999999+00:00", "0001-01-01T00:00:00+14:00", "żółw"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize(("shape", "body"), SHAPES, ids=IDS)
@given(data=st.data())
def test_whatever_is_wrong_ends_in_the_shape_or_a_breach(
    shape: Any, body: Any, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(paths(body)))
    drop = bool(path) and isinstance(path[-1], str) and data.draw(st.booleans())
    spoilt = without(body, *path) if drop else replaced(body, data.draw(_VALUES), *path)
    with suppress(KsefInvalidResponse):
        assert type(read(shape, spoilt)) is type(read(shape, body))


@pytest.mark.parametrize(
    "body",
    [
        "",
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": 1',
        "{'a': 1}",
        '{"status": "\\ud800"}',
        "[" * 5000 + "]" * 5000,
        b"\xff\xfe",
        b'{"status": {"code": 200, "description": "\xff"}}',
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_not_json_breaks_the_contract(body: str | bytes) -> None:
    with pytest.raises(KsefInvalidResponse) as caught:
        wire.decode(wire.LoginStatus, body)
    assert caught.value.detail == "KSeF's answer is not JSON."


def test_json_nested_deeply_breaks_the_contract() -> None:
    with pytest.raises(KsefInvalidResponse, match="the body: expected `object`"):
        wire.decode(wire.Session, "[" * 200 + "]" * 200)


def test_a_byte_order_mark_is_skipped() -> None:
    body = b"\xef\xbb\xbf" + json.dumps(LOGIN_STATUS).encode()
    assert wire.decode(wire.LoginStatus, body).status.code == 100


def test_a_page_of_sessions_is_read_whole() -> None:
    page = read(wire.SessionPage, {"sessions": [LISTED, LISTED], "continuationToken": "next"})
    assert (len(page.sessions), page.continuation_token) == (2, "next")
    listed = page.sessions[0]
    assert listed.reference_number == answers.SESSION
    expected = read(wire.Session, {**SESSION, "invoiceCount": 4})
    assert listed.session == expected
    assert type(listed.session) is wire.Session
    assert wire.to_json(listed.session) == wire.to_json(expected)


def test_download_links_show_nowhere() -> None:
    invoice, session = read(wire.Invoice, INVOICE), read(wire.Session, SESSION)
    assert invoice.upo_download_url == "https://storage.example/invoice?sig=2"
    assert invoice.upo_download_url_expiration_date == datetime(2026, 1, 19, 11, tzinfo=UTC)
    assert session.upo_pages[0].download_url == DOWNLOAD["downloadUrl"]
    for text in (repr(invoice), repr(session), wire.to_json([invoice]), wire.to_json(session)):
        assert "sig" not in text
        assert "Expiration" not in text


def test_no_token_shows_in_a_repr() -> None:
    assert "operation-token" not in repr(read(wire.StartedLogin, answers.started_login()))
    assert "access-token" not in repr(read(wire.Tokens, answers.tokens()))


class TestAsItIsKept:
    """Answers are kept in KSeF's own shape, so that what was kept is read like an answer."""

    @pytest.mark.parametrize("count", [3, 0, None])
    def test_a_session(self, count: int | None) -> None:
        session = read(wire.Session, {**SESSION, "invoiceCount": count, "upo": None})
        assert wire.decode(wire.Session, wire.to_json(session)) == session

    def test_a_listed_session_is_kept_as_any_other(self) -> None:
        (listed,) = read(wire.SessionPage, SESSIONS).sessions
        asked = read(wire.Session, {**SESSION, "invoiceCount": 4, "upo": {"pages": []}})
        kept = json.loads(wire.to_json(asked))
        told = msgspec.structs.replace(listed.session, upo=None)
        assert json.loads(wire.to_json(told)) == kept

    def test_links_are_left_out(self) -> None:
        session = read(wire.Session, SESSION)
        kept = wire.decode(wire.Session, wire.to_json(session))
        names = [page.reference_number for page in session.upo_pages]
        assert [page.reference_number for page in kept.upo_pages] == names
        assert wire.to_json(kept) == wire.to_json(session)
        assert kept == wire.without_links(session)
        invoice = read(wire.Invoice, INVOICE)
        (kept_invoice,) = wire.decode(list[wire.Invoice], wire.to_json([invoice]))
        assert kept_invoice == wire.without_links(invoice)

    def test_invoices(self) -> None:
        invoices = [read(wire.Invoice, body) for body in (answers.invoice(), answers.duplicate())]
        assert wire.decode(list[wire.Invoice], wire.to_json(invoices)) == invoices
        assert "extensions" not in wire.to_json([read(wire.Invoice, INVOICE)])

    def test_what_version_0_1_0_kept(self) -> None:
        session = {
            "status": {"code": 170, "description": "Zamknięta", "details": []},
            "dateCreated": "2026-01-15T11:00:00.123456+00:00",
            "dateUpdated": "2026-01-15T11:05:00+00:00",
            "invoiceCount": None,
            "successfulInvoiceCount": 0,
            "failedInvoiceCount": 0,
            "upo": {"pages": []},
        }
        kept = read(wire.Session, session)
        assert (kept.status.code, kept.status.details, kept.total) == (170, (), None)
        assert read(wire.Session, {**session, "upo": None}) == msgspec.structs.replace(
            kept, upo=None
        )
        status = {"code": 440, "description": "Duplikat", "details": ["Duplikat."]}
        original = {"originalKsefNumber": "1-2", "originalSessionReferenceNumber": "3-4"}
        invoice = {
            "ordinalNumber": 1,
            "referenceNumber": "20260115-EE",
            "invoiceNumber": None,
            "ksefNumber": None,
            "acquisitionDate": None,
            "status": {**status, "extensions": original},
        }
        (found,) = read(list[wire.Invoice], [invoice])
        assert found.duplicate_of == wire.Original("1-2", "3-4")
        assert found.invoice_hash is None


class TestWhatDecidesNothingIsMended:
    """One bad field in one invoice must not cost the whole session."""

    @pytest.mark.parametrize(
        ("path", "value", "mended"),
        [
            (("ksefNumber",), "", None),
            (("invoiceNumber",), "", None),
            (("invoiceNumber",), "\0", None),
            (("invoiceNumber",), "FV/\0-1", "FV/-1"),
            (("invoiceHash",), "", None),
            (("acquisitionDate",), "0001-01-01T00:00:00+00:00", None),
            (("acquisitionDate",), "0999-12-31T23:59:59+00:00", None),
            (("acquisitionDate",), "9999-12-31T23:59:59.9999999+00:00", None),
            (("acquisitionDate",), "9999-01-01T00:00:00+00:00", None),
            (("acquisitionDate",), "2026-01-15T11:01:00", None),
            (("acquisitionDate",), "2026-01-15T11:01:00+23:59:59", None),
            (("acquisitionDate",), "yesterday", None),
            (("status", "description"), None, ""),
            (("status", "description"), "", ""),
            (("status", "description"), "a\0b", "ab"),
            (("status", "details"), None, ()),
            (("status", "details"), [], ()),
            (("status", "details"), [None, "a", "", "b\0", None], ("a", "b")),
        ],
        ids=str,
    )
    def test_of_an_invoice(self, path: tuple[str, ...], value: Any, mended: Any) -> None:
        status = {"code": 430, "description": "Błąd", "details": ["Powód"]}
        refused = {**INVOICE, "invoiceHash": "abc=", "status": status}
        page = {"invoices": [answers.invoice(1), replaced(refused, value, *path)]}
        found: Any = read(wire.InvoicePage, page).invoices[1]
        for name in path:
            found = getattr(found, {**NAMES}.get(name, name))
        assert found == mended

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("status", "code"), "200"),
            (("ordinalNumber",), None),
            (("referenceNumber",), ""),
            (("referenceNumber",), "a\0b"),
            (("ksefNumber",), "../../../auth/prod"),
            (("ksefNumber",), 5),
            (("acquisitionDate",), 5),
            (("invoiceNumber",), 5),
        ],
        ids=str,
    )
    def test_what_decides_or_is_of_another_kind_stays_a_breach(
        self, path: tuple[str, ...], value: Any
    ) -> None:
        assert said(wire.Invoice, replaced(INVOICE, value, *path)).startswith(name_of(path))

    def test_of_a_session(self) -> None:
        session = read(wire.Session, {**SESSION, "validUntil": "0001-01-01T00:00:00Z"})
        assert session.valid_until is None

    @pytest.mark.parametrize("name", ["dateCreated", "dateUpdated"])
    def test_not_the_dates_of_a_session(self, name: str) -> None:
        for text in ("0001-01-01T00:00:00Z", "yesterday", "2026-01-15T11:00:00", "", None):
            assert said(wire.Session, {**SESSION, name: text})

    def test_long_details_are_cut_and_counted(self) -> None:
        def kept(*details: str) -> Any:
            status = {"code": 430, "description": "x", "details": details}
            return read(wire.Status, status).details

        short = ("ż" * 100,) * 80  # 16,000 bytes
        assert kept(*short) == short
        many = kept(*["ż" * 100] * 500)
        assert len("".join(many).encode()) <= wire.DETAILS_LIMIT
        assert many[0] == "ż" * 100
        assert many[-1] == f"… ({500 - len(many) + 1} more)"
        (beginning, last) = kept("x" * 20_000)
        assert (set(beginning), last) == ({"x"}, "… (1 more)")
        assert kept(*many) == many  # as it was kept


NAMES = {
    "ksefNumber": "ksef_number",
    "invoiceNumber": "invoice_number",
    "invoiceHash": "invoice_hash",
    "acquisitionDate": "acquisition_date",
}


class TestTimes:
    def read(self, text: Any) -> Any:
        return read(wire.Session, answers.session_status(dateCreated=text)).date_created

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2026-01-15T11:00:00+00:00", datetime(2026, 1, 15, 11, tzinfo=UTC)),
            ("2026-01-15T11:00:00Z", datetime(2026, 1, 15, 11, tzinfo=UTC)),
            (
                "2026-01-15T12:00:00.1234564+01:00",
                datetime(2026, 1, 15, 12, 0, 0, 123456, timezone(timedelta(hours=1))),
            ),
        ],
    )
    def test_iso_8601_with_an_offset(self, text: str, moment: datetime) -> None:
        assert self.read(text) == moment

    @pytest.mark.parametrize(
        "text", ["1000-01-01T00:00:00+14:00", "9998-12-31T23:59:59.9999994-12:00"]
    )
    def test_a_time_that_is_accepted_can_be_told_in_any_zone(self, text: str) -> None:
        """.NET's smallest and greatest times cannot: they stand where KSeF forgot to set one."""
        for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
            assert self.read(text).astimezone(ZoneInfo(zone))

    @pytest.mark.parametrize(
        ("milliseconds", "told"),
        [
            (-1, None),
            (0, "1970-01-01T00:00:00+00:00"),
            (1768474800123, "2026-01-15T11:00:00.123000+00:00"),
            (253370764799999, "9998-12-31T23:59:59.999000+00:00"),
            (253370764800000, None),
            (10**400, None),
        ],
    )
    def test_milliseconds_are_exact(self, milliseconds: int, told: str | None) -> None:
        body = answers.challenge(timestampMs=milliseconds)
        if told:
            assert read(wire.Challenge, body).made_at.isoformat() == told
        else:
            assert said(wire.Challenge, body).startswith("timestampMs: ")


class TestTexts:
    @pytest.mark.parametrize(
        "value", ["", "a b", "a\0b", "a\n", "ż", "a" * 65, "٣", "a/b", "..", "a.b", "a_b"], ids=repr
    )
    def test_an_identifier_is_letters_digits_and_dashes(self, value: str) -> None:
        page = {"invoices": [answers.invoice(referenceNumber=value)]}
        assert said(wire.InvoicePage, page).startswith("invoices[0].referenceNumber: expected")
        page = {"invoices": [answers.invoice(ksefNumber=value)]}
        if value:
            assert said(wire.InvoicePage, page).startswith("invoices[0].ksefNumber: expected")

    @pytest.mark.parametrize("value", ["", "a\r\nX-Evil: 1", "żeton", "a b", "a\0"], ids=repr)
    def test_a_token_goes_into_a_header_only_if_it_fits_one(self, value: str) -> None:
        breach = said(wire.Refreshed, {"accessToken": answers.token(value)})
        assert breach.startswith("accessToken.token: expected")
        assert value not in breach or not value

    def test_an_invoice_number_may_be_any_text(self) -> None:
        invoice = read(wire.Invoice, answers.invoice(invoiceNumber="FV/ż 1 🧾"))
        assert invoice.invoice_number == "FV/ż 1 🧾"

    @given(st.text(string.printable, max_size=80))
    def test_what_is_read_as_an_identifier_can_stand_in_a_path(self, text: str) -> None:
        try:
            invoice = read(wire.Invoice, answers.invoice(referenceNumber=text))
        except KsefInvalidResponse:
            return
        assert invoice.reference_number == text
        assert quote(text, safe="") == text


class TestNumbers:
    @pytest.mark.parametrize("value", [True, 1.0, "1", None], ids=repr)
    def test_only_whole_numbers_count(self, value: Any) -> None:
        status = {"code": value, "description": ""}
        breach = said(wire.Session, answers.session_status(status=status))
        assert breach.startswith("status.code: expected `int`")

    @pytest.mark.parametrize(
        ("number", "fits"),
        [(2**31 - 1, True), (2**31, False), (-(2**31), True), (2**64 - 1, False), (9**400, False)],
    )
    def test_a_number_is_one_that_a_column_holds(self, number: int, fits: bool) -> None:
        body = answers.invoice(ordinalNumber=number)
        if fits:
            assert read(wire.Invoice, body).ordinal_number == number
        else:
            assert said(wire.Invoice, body).startswith("ordinalNumber: ")

    @pytest.mark.parametrize(("code", "final"), [(100, False), (170, False), (200, True)])
    def test_a_status_is_final_from_200_on(self, code: int, final: bool) -> None:
        assert wire.Status(code).is_final is final


def test_a_duplicate_names_its_original_as_far_as_ksef_does() -> None:
    assert read(wire.Invoice, answers.duplicate()).duplicate_of == wire.Original(
        answers.KSEF_NUMBER, "20250826-SO-0123456789-ABCDEF0123-4F"
    )
    body = without(answers.duplicate(), "status", "extensions", "originalSessionReferenceNumber")
    original = wire.Original(answers.KSEF_NUMBER, None)
    assert read(wire.Invoice, body).duplicate_of == original
    body = without(answers.duplicate(), "status", "extensions", "originalKsefNumber")
    assert read(wire.Invoice, body).duplicate_of is None
    bare = without(answers.duplicate(), "status", "extensions")
    assert read(wire.Invoice, bare).duplicate_of is None


def test_only_a_duplicate_names_an_original() -> None:
    body = replaced(answers.duplicate(), 450, "status", "code")
    assert read(wire.Invoice, body).duplicate_of is None


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({}, True),
        ({"ksefNumber": None}, False),
        ({"status": {"code": 150, "description": ""}}, False),
        ({"status": {"code": 410, "description": ""}}, False),
    ],
)
def test_an_invoice_is_accepted_with_200_and_a_number(changes: Any, accepted: bool) -> None:
    assert read(wire.Invoice, answers.invoice(**changes)).is_accepted is accepted
