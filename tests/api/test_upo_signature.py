"""What callers are told about the Ministry's signature, and what they are not given."""

from collections.abc import Callable
from typing import Any

import pytest

from app.services.upo import signature
from tests.answers import assert_problem
from tests.api.test_upo import NIP, UPO_PATH, path, signature_of, text_of
from tests.service import Company

GIVEN = [
    ("upo-other-signer", "unknown_signer"),
    ("upo-expired-signer", "unknown_signer"),
    ("upo-sha1", "unverifiable"),
    ("upo-extra-transform", "unverifiable"),
    ("upo-unsigned", "unsigned"),
    ("upo-ecdsa", "valid"),
]
BROKEN = [
    "upo-tampered-value",
    "upo-tampered-signature",
    "upo-wrapped",
    "upo-two-signatures",
    "upo-pretty-printed",
]


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(NIP, environments=("test",))


@pytest.fixture
def session(company: Company, control: Any) -> Any:
    made = control.seed_session("test", NIP, invoices=[{}, {}])
    control.clear_calls()
    return made


def raw(company: Company, session: Any, doc_type: str = "xml", **headers: str) -> Any:
    accept = {"Accept": f"application/{doc_type}", **headers}
    return company.get(path(session, doc_type=doc_type), headers=accept)


def stored(database: Any) -> list[Any]:
    return database.execute("SELECT signature, signer, certificate_sha256 FROM upos")


@pytest.mark.fault(42)
@pytest.mark.parametrize(("kind", "state"), GIVEN)
def test_all_but_a_broken_one_is_given_and_marked(
    company: Company,
    control: Any,
    session: Any,
    database: Any,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    state: str,
) -> None:
    control.fault(kind, path=UPO_PATH)
    answer = raw(company, session)
    warned = [
        record.fields
        for record in caplog.records
        if record.message == "the signature of a UPO is not a trusted one"
    ]
    assert (answer.status_code, answer.headers["UPO-Signature"]) == (200, state)
    told = company.get(path(session)).json["signature"]
    fits = state in ("valid", "unknown_signer")
    empty = {"state": state, "signer": None, "signedAt": None, "certificateSha256": None}
    assert told == (signature_of(answer.data, state) if fits else empty)
    assert stored(database) == [(state, told["signer"], told["certificateSha256"])]
    assert [(w["verdict"], w["certificate"]) for w in warned] == (
        [] if state == "valid" else [(state, told["certificateSha256"])]
    )
    pages = text_of(raw(company, session, "pdf").data)
    assert "Electronic signature: " in pages
    assert ("Electronic signature: valid" in pages) is (state == "valid")


@pytest.mark.fault(42)
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_one_is_neither_given_nor_archived(
    company: Company, control: Any, session: Any, database: Any, kind: str
) -> None:
    control.fault(kind, path=UPO_PATH)
    body = assert_problem(company.get(path(session)), 502, "upo_integrity")
    assert "signature is broken" in body["detail"]
    assert stored(database) == []
    assert company.get(path(session)).json["signature"]["state"] == "valid"


def test_rotation_stops_nobody_and_is_told(
    company: Company, control: Any, session: Any, database: Any
) -> None:
    newest = control.rotate_signers("test")
    answer = company.get(path(session))
    assert answer.status_code == 200
    assert answer.json["signature"]["state"] == "unknown_signer"
    assert answer.json["signature"]["certificateSha256"] == newest


def test_later_verdict_is_another_pdf_and_another_envelope(
    company: Company, control: Any, session: Any, database: Any
) -> None:
    control.rotate_signers("test")
    before = {
        "pdf": raw(company, session, "pdf"),
        "json": company.get(path(session)),
        "xml": raw(company, session),
    }
    database.execute("UPDATE upos SET signature = 'valid'")
    after = {
        "pdf": raw(company, session, "pdf", **{"If-None-Match": before["pdf"].headers["ETag"]}),
        "json": company.get(
            path(session), headers={"If-None-Match": before["json"].headers["ETag"]}
        ),
    }
    for kind, answer in after.items():
        assert answer.status_code == 200, kind
        assert answer.headers["ETag"] != before[kind].headers["ETag"]
    assert "Podpis elektroniczny: prawidłowy. Electronic signature: valid. " in text_of(
        after["pdf"].data
    )
    # The XML is the same: only what is said about it is new, on a 304 too.
    again = raw(company, session, **{"If-None-Match": before["xml"].headers["ETag"]})
    assert (again.status_code, again.headers["UPO-Signature"]) == (304, "valid")


def forget_verdict(database: Any) -> None:
    """As what an older version of the service archived."""
    database.execute("UPDATE upos SET signature = NULL, signer = NULL, signed_at = NULL")
    database.execute("UPDATE upos SET certificate_sha256 = NULL")


def test_what_was_archived_before_is_judged_once(
    company: Company, session: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    company.get(path(session))
    [before] = stored(database)
    forget_verdict(database)
    judged = []
    really = signature.verify_signature

    def count(content: bytes, signers: Any) -> Any:
        judged.append(content)
        return really(content, signers)

    monkeypatch.setattr(signature, "verify_signature", count)
    for doc_type in ("xml", "pdf", "xml"):
        assert raw(company, session, doc_type).headers["UPO-Signature"] == "valid"
    assert stored(database) == [before]
    assert len(judged) == 1


def test_broken_one_that_was_archived_before_is_not_given(
    company: Company, session: Any, database: Any
) -> None:
    company.get(path(session))
    forget_verdict(database)
    database.execute(
        "UPDATE upos SET content = convert_to(replace(convert_from(content, 'UTF8'),"
        " '<TrybWysylki>Online', '<TrybWysylki>Offline'), 'UTF8')"
    )
    for _ in range(2):
        assert_problem(company.get(path(session)), 502, "upo_integrity")
    assert stored(database) == [("broken", None, None)]


def test_verdict_that_cannot_be_stored_is_given_all_the_same(
    company: Company, session: Any, database: Any
) -> None:
    company.get(path(session))
    forget_verdict(database)
    database.execute("REVOKE UPDATE ON upos FROM ksef_proxy")
    try:
        assert raw(company, session).headers["UPO-Signature"] == "valid"
    finally:
        database.execute("GRANT UPDATE ON upos TO ksef_proxy")
    assert stored(database) == [(None, None, None)]


def test_each_page_of_a_collective_upo_has_its_verdict(company: Company, control: Any) -> None:
    control.settings(upoPageSize=1)
    session = control.seed_session("test", NIP, invoices=2)
    control.fault("upo-other-signer", path="/upo/", skip=1)
    asked = f"/invoices/test/status/{session.reference_number}/upo"
    first = company.get(asked)
    states = [page["signature"]["state"] for page in first.json["pages"]]
    assert states == ["valid", "unknown_signer"]
    assert company.get(asked).data == first.data


def test_pdf_of_ksef_s_own_has_no_verdict(company: Company, control: Any, session: Any) -> None:
    control.fault("upo-pdf", path=UPO_PATH)
    told = company.get(path(session, doc_type="pdf")).json["signature"]
    assert told == {
        "state": "unverifiable",
        "signer": None,
        "signedAt": None,
        "certificateSha256": None,
    }


def test_verdicts_are_counted(company: Company, control: Any, session: Any) -> None:
    def counted(state: str) -> float:
        name = f'ksef_proxy_upo_signatures_total{{environment="test",verdict="{state}"}} '
        [line] = [
            line for line in company.get("/metrics").text.splitlines() if line.startswith(name)
        ]
        return float(line.removeprefix(name))

    before = {state: counted(state) for state in ("valid", "unsigned", "broken")}
    control.fault("upo-wrapped", path=UPO_PATH)
    control.fault("upo-unsigned", path=UPO_PATH)
    for number in (0, 0, 1, 1):
        company.get(path(session, session.ksef_numbers[number]))
    assert {state: counted(state) - before[state] for state in before} == {
        "valid": 1,
        "unsigned": 1,
        "broken": 1,
    }
