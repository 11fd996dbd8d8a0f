"""KSeF's JSON, as it should be and as it should not."""

import string
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import KsefInvalidResponse
from app.ksef import wire
from app.ksef.limits import Limits
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
READERS: list[tuple[Callable[[Any], Any], Any]] = [
    (wire.session_status, SESSION),
    (wire.session_page, SESSIONS),
    (wire.invoice, INVOICE),
    (wire.invoice_page, PAGE),
    (wire.public_keys, [answers.public_key()]),
    (wire.challenge, answers.challenge()),
    (wire.started_login, answers.started_login()),
    (wire.login_status, LOGIN_STATUS),
    (wire.tokens, answers.tokens()),
    (wire.access_token, {"accessToken": answers.token()}),
]
OPTIONAL = {
    *("invoiceCount", "totalInvoiceCount", "successfulInvoiceCount", "failedInvoiceCount"),
    *("upo", "pages", *DOWNLOAD, "upoDownloadUrl", "upoDownloadUrlExpirationDate"),
    *("invoiceNumber", "ksefNumber", "acquisitionDate", "details", "continuationToken"),
    *("extensions", "originalKsefNumber", "originalSessionReferenceNumber"),
}
UNREAD = {"timestamp"}
IDS = [read.__name__ for read, _ in READERS]


def paths(json: Any, so_far: Path = ()) -> list[Path]:
    """Where there is a value in an answer: the whole of it, and every member at any depth."""
    if not isinstance(json, dict | list):
        return [so_far]
    members = json.items() if isinstance(json, dict) else enumerate(json)
    return [so_far, *(path for name, value in members for path in paths(value, (*so_far, name)))]


def name_of(path: Path) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".") or "the body"


def said(read: Callable[[Any], Any], body: Any) -> str:
    """What is said of a body that breaks the contract."""
    with pytest.raises(KsefInvalidResponse) as caught:
        wire.reading(read, body)
    return caught.value.detail


@pytest.mark.parametrize(
    ("read", "body", "path", "name"),
    [
        (wire.session_status, answers.session_status(), ("status",), "status"),
        (wire.session_status, answers.session_status(), ("status", "code"), "status.code"),
        (wire.session_status, answers.session_status(), ("dateCreated",), "dateCreated"),
        (wire.session_status, answers.session_status(), ("dateUpdated",), "dateUpdated"),
        (
            wire.session_status,
            answers.session_status(),
            ("upo", "pages", 0, "referenceNumber"),
            "upo.pages[0].referenceNumber",
        ),
        (wire.invoice_page, PAGE, ("invoices",), "invoices"),
        (wire.invoice_page, PAGE, ("invoices", 1, "ordinalNumber"), "invoices[1].ordinalNumber"),
        (
            wire.invoice_page,
            PAGE,
            ("invoices", 0, "status", "description"),
            "invoices[0].status.description",
        ),
        (wire.public_keys, [answers.public_key()], (0, "usage"), "[0].usage"),
        (wire.challenge, answers.challenge(), ("timestampMs",), "timestampMs"),
        (wire.tokens, answers.tokens(), ("refreshToken", "token"), "refreshToken.token"),
    ],
)
def test_a_missing_or_wrong_field_is_named(
    read: Callable[[Any], Any], body: Any, path: Path, name: str
) -> None:
    breach = "KSeF's answer breaks its contract: {}."
    assert said(read, without(body, *path)) == breach.format(f"{name} is not there")
    wrong = said(read, replaced(body, True, *path))
    assert wrong.startswith(breach.format(f"{name} is not a")[:-1])


@pytest.mark.parametrize(("read", "body"), READERS, ids=IDS)
def test_every_value_of_another_type_is_named(read: Callable[[Any], Any], body: Any) -> None:
    for path in paths(body):
        if UNREAD.isdisjoint(path):
            breach = said(read, replaced(body, 1.5, *path))  # no field of KSeF's is a fraction
            assert breach.startswith(
                f"KSeF's answer breaks its contract: {name_of(path)} is not a"
            ), breach


@pytest.mark.parametrize(("read", "body"), READERS, ids=IDS)
def test_a_field_without_a_value_is_none_or_a_breach(read: Callable[[Any], Any], body: Any) -> None:
    for path in paths(body):
        if not path or isinstance(path[-1], int) or path[-1] in UNREAD:
            continue
        null, absent = replaced(body, None, *path), without(body, *path)
        if path[-1] in OPTIONAL:
            assert read(null) == read(absent)
        else:
            where = f"KSeF's answer breaks its contract: {name_of(path)} is not"
            assert said(read, absent) == f"{where} there."
            assert said(read, null).startswith(f"{where} a")


@pytest.mark.parametrize(("read", "body"), READERS, ids=IDS)
def test_unknown_fields_are_ignored(read: Callable[[Any], Any], body: Any) -> None:
    expected = read(body)
    for path in paths(body):
        value = body
        for step in path:
            value = value[step]
        if isinstance(value, dict):
            assert read(replaced(body, {**value, "brandNew": [{}]}, *path)) == expected


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


@pytest.mark.parametrize(("read", "body"), READERS, ids=IDS)
@given(data=st.data())
def test_whatever_is_wrong_ends_in_a_dataclass_or_a_breach(
    read: Callable[[Any], Any], body: Any, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(paths(body)))
    drop = bool(path) and isinstance(path[-1], str) and data.draw(st.booleans())
    spoilt = without(body, *path) if drop else replaced(body, data.draw(_VALUES), *path)
    with suppress(KsefInvalidResponse):
        assert type(wire.reading(read, spoilt)) is type(read(body))


def test_a_page_of_sessions_is_read_whole() -> None:
    whole = wire.session_page({"sessions": [LISTED, LISTED], "continuationToken": "next"})
    link = wire.Link(DOWNLOAD["downloadUrl"], datetime(2026, 1, 18, 11, tzinfo=UTC))
    listed = wire.ListedSession(
        answers.SESSION,
        wire.SessionStatus(
            status=wire.Status(200, "Sesja interaktywna przetworzona pomyślnie"),
            date_created=datetime(2026, 1, 15, 11, 0, 0, 123456, tzinfo=UTC),
            date_updated=datetime(2026, 1, 15, 11, 5, tzinfo=UTC),
            invoice_count=4,
            successful_invoice_count=2,
            failed_invoice_count=1,
            counted=True,
            upo_pages=[wire.UpoPage("20260115-EU-0123456789-ABCDEF0123-4F", link)],
        ),
    )
    assert whole == wire.SessionPage([listed, listed], "next")
    assert wire.session_page({"sessions": [], "continuationToken": ""}).continuation_token is None


def test_a_link_is_its_address_and_its_end() -> None:
    link = wire.invoice(INVOICE).upo_link
    end = datetime(2026, 1, 19, 11, tzinfo=UTC)
    assert link == wire.Link("https://storage.example/invoice?sig=2", end)
    assert "sig" not in repr(link)
    for name in ("upoDownloadUrl", "upoDownloadUrlExpirationDate"):
        assert wire.invoice(without(INVOICE, name)).upo_link is None


def test_limits_are_read_of_the_groups_that_are_known() -> None:
    body = {
        "sessionMisc": {"perSecond": 1, "perMinute": 2, "perHour": 3},
        "other": None,
        "inventedGroup": {"perSecond": "many"},
    }
    assert wire.rate_limits(body) == {"sessionMisc": Limits(1, 2, 3)}
    for name in ("perSecond", "perMinute", "perHour"):
        breach = said(wire.rate_limits, replaced(body, "1", "sessionMisc", name))
        assert f": sessionMisc.{name} is not a whole number" in breach
    assert "the body is not an object" in said(wire.rate_limits, [])


class TestAsItIsKept:
    """Answers are kept in KSeF's own shape, so that what was kept is read like an answer."""

    @pytest.mark.parametrize("count", [3, 0, None])
    def test_a_session(self, count: int | None) -> None:
        session = wire.session_status({**SESSION, "invoiceCount": count})
        pages = [wire.UpoPage(page.reference_number) for page in session.upo_pages]
        kept = wire.session_json(session)
        assert wire.session_status(kept) == replace(session, upo_pages=pages)
        assert "sig" not in str(kept)

    def test_the_status_of_an_invoice(self) -> None:
        status = wire.Status(440, "Duplikat faktury", ["Duplikat.", "Inny."])
        original = wire.Original(answers.KSEF_NUMBER, answers.SESSION)
        kept = wire.status_json(status, original)
        assert wire.invoice_status(kept) == (status, original)
        assert wire.invoice_status({**kept, "code": 450}) == (replace(status, code=450), None)
        assert wire.invoice_status(wire.status_json(status)) == (status, None)
        assert "extensions" not in wire.status_json(status)

    def test_what_was_spoilt_is_named(self) -> None:
        kept = wire.status_json(wire.Status(440, ""), wire.Original("1", "2"))
        for path in (("code",), ("extensions", "originalKsefNumber")):
            breach = said(wire.invoice_status, replaced(kept, 1.5, *path))
            assert f": status.{name_of(path)} is not a" in breach


class TestTimes:
    def read(self, text: Any) -> Any:
        body = answers.session_status(dateCreated=text)
        return wire.reading(wire.session_status, body).date_created

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2026-01-15T11:00:00+00:00", datetime(2026, 1, 15, 11, tzinfo=UTC)),
            ("2026-01-15T11:00:00Z", datetime(2026, 1, 15, 11, tzinfo=UTC)),
            (
                "2026-01-15T12:00:00.1234567+01:00",
                datetime(2026, 1, 15, 12, 0, 0, 123456, timezone(timedelta(hours=1))),
            ),
        ],
    )
    def test_iso_8601_with_an_offset(self, text: str, moment: datetime) -> None:
        assert self.read(text) == moment

    @pytest.mark.parametrize(
        "text",
        [
            "2026-01-15T11:00:00",
            "2026-01-15",
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            1768474800,
            None,
        ],
    )
    def test_everything_else_is_refused(self, text: Any) -> None:
        assert "dateCreated is not " in said(
            wire.session_status, answers.session_status(dateCreated=text)
        )

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("0999-12-31T23:59:59+00:00", False),
            ("1000-01-01T00:00:00+00:00", True),
            ("9998-12-31T23:59:59+00:00", True),
            ("9999-01-01T00:00:00+00:00", False),
        ],
    )
    def test_years_of_four_digits_but_the_last(self, text: str, told: bool) -> None:
        if told:
            assert self.read(text).isoformat() == text
        else:
            breach = said(wire.session_status, answers.session_status(dateCreated=text))
            assert "dateCreated is not a time within the years 1000 to 9998" in breach

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
            assert wire.challenge(body).made_at.isoformat() == told
        else:
            assert "timestampMs is not a time that can be told" in said(wire.challenge, body)

    @pytest.mark.parametrize(
        "text", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59.9999999+00:00"]
    )
    def test_a_time_that_is_accepted_can_be_told_in_any_zone(self, text: str) -> None:
        """.NET's smallest and greatest times cannot: they stand where KSeF forgot to set one."""
        try:
            moment = self.read(text)
        except KsefInvalidResponse:
            return
        for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
            assert moment.astimezone(ZoneInfo(zone))


class TestTexts:
    @pytest.mark.parametrize(
        "value",
        ["", "a b", "a\0b", "a\nb", "ż", "a" * 65, "٣", None, 5],
        ids=repr,
    )
    def test_a_reference_goes_into_sql_and_urls_only_if_it_is_one(self, value: Any) -> None:
        page = {"invoices": [answers.invoice(referenceNumber=value)]}
        assert "invoices[0].referenceNumber is not" in said(wire.invoice_page, page)
        page = {"invoices": [answers.invoice(ksefNumber=value)]}
        if value is None:  # there is none yet
            assert wire.invoice_page(page).invoices[0].ksef_number is None
        else:
            assert "invoices[0].ksefNumber is not" in said(wire.invoice_page, page)

    @pytest.mark.parametrize("value", ["", "a\r\nX-Evil: 1", "żeton", "a b", "a\0"], ids=repr)
    def test_a_token_goes_into_a_header_only_if_it_fits_one(self, value: str) -> None:
        breach = said(wire.access_token, {"accessToken": answers.token(value)})
        assert "accessToken.token is not" in breach
        assert value not in breach or not value

    def test_an_invoice_number_may_be_any_text(self) -> None:
        page = wire.invoice_page({"invoices": [answers.invoice(invoiceNumber="FV/ż 1 🧾")]})
        assert page.invoices[0].invoice_number == "FV/ż 1 🧾"

    def test_what_postgresql_cannot_store_is_named(self) -> None:
        page = {"invoices": [answers.invoice(invoiceNumber="FV/\0")]}
        breach = said(wire.invoice_page, page)
        assert "invoices[0].invoiceNumber is not a text that can be stored" in breach
        status = {"code": 200, "description": "", "details": ["", "a\0b"]}
        breach = said(wire.session_status, answers.session_status(status=status))
        assert "status.details[1] is not a text that can be stored" in breach

    def test_a_certificate_is_base64(self) -> None:
        for text in ("%%%%", "MII", "żółw"):
            breach = said(wire.public_keys, [answers.public_key(certificate=text)])
            assert "[0].certificate is not Base64" in breach

    @given(st.text(string.printable, max_size=80))
    def test_what_is_read_as_an_identifier_can_stand_in_a_path(self, text: str) -> None:
        try:
            page = wire.reading(
                wire.invoice_page, {"invoices": [answers.invoice(referenceNumber=text)]}
            )
        except KsefInvalidResponse:
            return
        (invoice,) = page.invoices
        assert invoice.reference_number == text
        assert len(text.split()) == 1


class TestNumbers:
    @pytest.mark.parametrize("value", [True, 1.0, "1", None], ids=repr)
    def test_only_whole_numbers_count(self, value: Any) -> None:
        status = {"code": value, "description": ""}
        breach = said(wire.session_status, answers.session_status(status=status))
        assert "status.code is not a whole number" in breach

    @pytest.mark.parametrize(
        ("number", "fits"),
        [(2**31 - 1, True), (2**31, False), (-(2**31), True), (2**64 - 1, False)],
    )
    def test_a_number_is_one_that_a_column_holds(self, number: int, fits: bool) -> None:
        body = answers.invoice(ordinalNumber=number)
        if fits:
            assert wire.invoice(body).ordinal_number == number
        else:
            assert "ordinalNumber is not a whole number of 32 bits" in said(wire.invoice, body)

    @pytest.mark.parametrize(("code", "final"), [(100, False), (170, False), (200, True)])
    def test_a_status_is_final_from_200_on(self, code: int, final: bool) -> None:
        assert wire.Status(code, "").is_final is final


@pytest.mark.parametrize("missing", ["originalKsefNumber", "originalSessionReferenceNumber"])
def test_a_duplicate_without_its_whole_original_names_none(missing: str) -> None:
    body = without(answers.duplicate(), "status", "extensions", missing)
    assert wire.invoice_page({"invoices": [body]}).invoices[0].duplicate_of is None
    bare = without(answers.duplicate(), "status", "extensions")
    assert wire.invoice_page({"invoices": [bare]}).invoices[0].duplicate_of is None


def test_only_a_duplicate_names_an_original() -> None:
    body = replaced(answers.duplicate(), 450, "status", "code")
    assert wire.invoice_page({"invoices": [body]}).invoices[0].duplicate_of is None


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
    page = wire.invoice_page({"invoices": [answers.invoice(**changes)]})
    assert page.invoices[0].is_accepted is accepted
