"""The console without a browser: who may, what is shown, what is never asked."""

import io
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from flask import Flask
from lxml import html as lxml_html
from werkzeug.test import TestResponse

from app import clock
from app.console.context import form_tokens
from app.console.forms import FormTokens
from app.service import Service
from app.services.operators import overview as console
from app.services.operators import quotas
from app.services.sessions.check import check_session
from sandbox.control import Control, SeededSession
from tests.rows import add_offline, add_synced
from tests.service import Company

ENGLISH = {"Accept-Language": "en"}
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
PAGES = ("", "/test", "/prod/sessions", "/demo/unlinked", "/search?number=FV/1")


def text_of(answer: TestResponse) -> str:
    """What the page says, on one line, with plain spaces."""
    page = lxml_html.document_fromstring(answer.text)
    return " ".join(page.text_content().split())


def element(answer: TestResponse, path: str) -> Any:
    [found] = lxml_html.document_fromstring(answer.text).xpath(path)
    return found


@pytest.fixture
def tokens(app: Flask) -> FormTokens:
    with app.app_context():
        return form_tokens()


@pytest.fixture
def send(tokens: FormTokens) -> Callable[..., TestResponse]:
    """Sends a form of the console as a browser would; `without` one of its proofs."""

    def post(company: Company, path: str, **fields: str) -> TestResponse:
        form = {"token": tokens.token(company.email), **fields}
        return company.request("POST", f"/console{path}", headers=SAME_ORIGIN, data=form)

    return post


def asked(service: Service, control: Control, company: Company, **order: Any) -> SeededSession:
    """A session in `test` whose answer is kept."""
    session = control.seed_session("test", company.nip, **order)
    check_session(company.account(), session.reference_number)
    control.clear_calls()
    return session


class TestAnswers:
    @pytest.mark.parametrize("path", PAGES)
    def test_pages_are_private_strict_and_whole(self, company: Company, path: str) -> None:
        answer = company.get(f"/console{path}")
        assert answer.status_code == 200
        assert answer.content_type == "text/html; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Security-Policy"] == (
            "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self';"
            " frame-ancestors 'none'; base-uri 'none'"
        )
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.text.lstrip().startswith("<!doctype html>")

    @pytest.mark.parametrize("path", PAGES)
    def test_there_is_no_script_no_inline_style_and_nothing_from_elsewhere(
        self, company: Company, path: str
    ) -> None:
        found: list[tuple[str, dict[str, Any]]] = []

        class Elements(HTMLParser):
            def handle_starttag(self, tag: str, attrs: Any) -> None:
                found.append((tag, dict(attrs)))

        Elements().feed(company.get(f"/console{path}").text)
        assert "main" in {tag for tag, _ in found}
        assert not {"script", "style", "iframe", "object"} & {tag for tag, _ in found}
        for tag, attributes in found:
            assert not [name for name in attributes if name == "style" or name.startswith("on")]
            for name in ("href", "src", "action"):
                if name in attributes:
                    assert attributes[name].startswith(("/", "#", "data:image/")), (tag, name)

    def test_the_style_is_public_and_kept_for_long(self, app: Flask) -> None:
        answer = app.test_client().get("/console/style.css")
        assert answer.status_code == 200
        assert answer.content_type == "text/css; charset=utf-8"
        assert "immutable" in answer.headers["Cache-Control"]
        assert "http" not in answer.text
        assert "@import" not in answer.text

    def test_looking_never_asks_ksef(
        self, service: Service, company: Company, control: Control
    ) -> None:
        session = asked(service, control, company, state="moving", invoices=2)
        for path in (*PAGES, f"/test/sessions/{session.reference_number}", "/test/sessions"):
            assert company.get(f"/console{path}").status_code == 200
        assert control.calls() == []

    def test_a_slash_too_many_leads_to_the_overview(self, company: Company) -> None:
        assert company.get("/console/").headers["Location"] == "/console"


class TestErrors:
    def test_who_is_not_known_gets_a_page_and_is_asked_for_a_password(self, app: Flask) -> None:
        answer = app.test_client().get("/console", headers={"Accept-Language": "pl"})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert "Zaloguj się" in text_of(answer)

    @pytest.mark.parametrize(
        ("path", "status", "code", "said"),
        [
            ("/nowhere/at/all", 404, "not_found", "There is no such page"),
            ("/nowhere", 404, "not_found", "There is no such page"),
            ("/nowhere?a=b", 404, "not_found", "There is no such page"),
            ("/nowhere/sessions", 404, "not_found", "There is no such page"),
            ("/TEST/sessions/abc", 404, "not_found", "There is no such page"),
            ("/test/", 404, "not_found", "There is no such page"),
            ("/test/sessions/abc", 400, "invalid_parameter", "A number or value is wrong"),
            ("/test/sessions?page=0", 400, "invalid_parameter", "A number or value is wrong"),
            ("/test/sessions?page=١", 400, "invalid_parameter", "A number or value is wrong"),
            ("/test/sessions?page=%2B1", 400, "invalid_parameter", "A number or value is wrong"),
            ("/test/unlinked?page=1_0", 400, "invalid_parameter", "A number or value is wrong"),
            ("/test/unlinked?page=+1", 400, "invalid_parameter", "A number or value is wrong"),
            ("/search?number=%ff", 400, "invalid_parameter", "A number or value is wrong"),
            ("/test?a=b", 400, "invalid_parameter", "A number or value is wrong"),
            ("?lang=de", 400, "invalid_parameter", "A number or value is wrong"),
        ],
    )
    def test_errors_are_pages_with_code_and_request(
        self, company: Company, path: str, status: int, code: str, said: str
    ) -> None:
        answer = company.get(f"/console{path}", headers=ENGLISH)
        assert answer.status_code == status
        assert answer.content_type == "text/html; charset=utf-8"
        text = text_of(answer)
        assert said in text
        assert code in text
        assert answer.headers["X-Request-ID"] in text

    def test_a_form_to_an_environment_that_there_is_not(self, company: Company, send: Any) -> None:
        answer = send(company, "/nowhere/simulation", message="Próba", minutes="15")
        assert (answer.status_code, answer.content_type) == (404, "text/html; charset=utf-8")

    def test_the_database_away(self, company: Company, service: Service, database: Any) -> None:
        assert company.get("/console").status_code == 200
        database.execute("ALTER TABLE kept_sessions RENAME TO kept_elsewhere")
        try:
            answer = company.get("/console/test")
        finally:
            database.execute("ALTER TABLE kept_elsewhere RENAME TO kept_sessions")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "5"
        assert "unavailable" in text_of(answer)

    def test_a_role_that_opens_nothing(self, make_company: Any) -> None:
        auditor = make_company("5265877635", role="auditor", logged_in=False)
        answer = auditor.get("/console", headers=ENGLISH)
        assert answer.status_code == 403
        assert "Not allowed" in text_of(answer)


class TestLogout:
    def test_the_password_is_refused_so_that_the_browser_forgets_it(self, company: Company) -> None:
        link = element(company.get("/console?lang=en"), "//p[@class='who']/a")
        assert link.text == "Log out"
        answer = company.get(link.get("href"), headers=ENGLISH)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        text = text_of(answer)
        assert "Your browser has been told to forget the user name and password" in text
        assert "close all windows of the browser" in text
        assert company.email not in text
        assert element(answer, "//main//a/@href") == "/console"
        assert company.get("/console").status_code == 200  # nothing is locked

    def test_it_is_no_failed_login(self, company: Company, database: Any) -> None:
        for _ in range(12):
            company.get("/console/logout")
        assert company.get("/console").status_code == 200
        assert database.execute("SELECT * FROM login_attempts") == []


class TestLanguage:
    def test_the_browser_chooses_until_the_reader_does(self, company: Company) -> None:
        def heading(path: str, **headers: str) -> tuple[str, str]:
            answer = company.get(path, headers=headers)
            return element(answer, "//h1").text, element(answer, "/html").get("lang")

        assert heading("/console") == ("Przegląd", "pl")
        assert heading("/console", **{"Accept-Language": "de, en;q=0.5"}) == ("Overview", "en")
        assert heading("/console?lang=en") == ("Overview", "en")
        assert heading("/console", **{"Accept-Language": "pl"}) == ("Overview", "en")
        cookie = company.client.get_cookie("lang", path="/console")
        assert cookie.http_only
        assert cookie.same_site == "Lax"

    def test_the_link_leads_to_the_same_page(self, company: Company) -> None:
        answer = company.get("/console/prod/sessions?page=2")
        path = "//nav[@class='languages']/a[@lang='en']/@href"
        assert element(answer, path) == "/console/prod/sessions?page=2&lang=en"


class TestEnvironments:
    def test_an_available_ksef_with_its_session_and_quota(
        self, service: Service, company: Company, control: Control
    ) -> None:
        asked(service, control, company, invoices=2)
        text = text_of(company.get("/console/test?lang=en"))
        assert "Test Available" in text
        assert "KSeF answered the last call" in text
        assert "active until" in text
        assert "with a KSeF token" in text
        assert "1 / 180" in text  # the list, of nine tenths of 200

    def test_nothing_is_known_of_what_was_never_called(self, make_company: Any) -> None:
        company = make_company("5265877635", logged_in=False)
        text = text_of(company.get("/console/prod?lang=en"))
        assert "Production Unknown KSeF has not been called yet" in text.replace(
            " State of KSeF", ""
        )
        assert "not logged in" in text
        assert "No credential is stored" in text

    def test_an_outage_with_its_evidence(self, company: Company, database: Any) -> None:
        database.execute("DELETE FROM outages")
        database.execute(
            "INSERT INTO outages (environment, consecutive_failures, failing_since, opened_at)"
            " VALUES ('prod', 5, '2026-09-15 08:00Z', '2026-09-15 08:01Z')"
        )
        text = text_of(company.get("/console/prod?lang=pl"))
        assert "Nie odpowiada" in text
        assert "KSeF nie odpowiada na żadne wywołania od 15.09.2026, 10:00" in text
        assert "5 nieudanych wywołań z rzędu" in text
        assert "offline24" in text

    def test_an_announced_maintenance_is_called_so(self, company: Company, database: Any) -> None:
        database.execute("DELETE FROM outages")
        database.execute(
            "INSERT INTO outages (environment, consecutive_failures, failing_since,"
            " latarnia, latarnia_read_at) VALUES ('prod', 1, now(), $$"
            '{"status": "MAINTENANCE", "messages": [{"id": "a", "eventId": 7,'
            ' "category": "MAINTENANCE", "type": "MAINTENANCE_ANNOUNCEMENT",'
            ' "title": "Prace <serwisowe>", "text": "Nocą.",'
            ' "start": "2020-01-01T00:00:00Z", "end": "2099-01-01T00:00:00Z", "version": 1,'
            ' "published": "2020-01-01T00:00:00Z"}]}'
            "$$, now())"
        )
        answer = company.get("/console/prod?lang=pl")
        assert "Niedostępność" in text_of(answer)
        assert "Prace <serwisowe>" in text_of(answer)

    @pytest.mark.parametrize(
        ("language", "told", "as_usual"),
        [
            (
                "pl",
                "Poniższy komunikat Ministerstwo opublikowało 15.09.2026, 10:02. KSeF odpowiada",
                "wysyłaj faktury jak zwykle",
            ),
            (
                "en",
                "The Ministry published the announcement below on 15 Sep 2026, 10:02. KSeF answers",
                "send invoices as usual",
            ),
        ],
    )
    def test_an_announcement_that_stays_although_ksef_answers_is_the_ministry_s_own(
        self, company: Company, database: Any, language: str, told: str, as_usual: str
    ) -> None:
        database.execute("DELETE FROM outages")
        database.execute(
            "INSERT INTO outages (environment, consecutive_failures, answered_at,"
            " latarnia, latarnia_read_at) VALUES ('prod', 0, now(), $$"
            '{"status": "FAILURE", "messages": [{"id": "a", "eventId": 7,'
            ' "category": "FAILURE", "type": "FAILURE_START", "title": "Awaria KSeF",'
            ' "text": "Faktury można wystawiać w trybie awaryjnym.",'
            ' "start": "2026-09-15T08:00:00Z", "version": 1,'
            ' "published": "2026-09-15T08:02:00Z"}]}'
            "$$, now())"
        )
        for page in ("/console", "/console/prod"):
            answer = company.get(f"{page}?lang={language}")
            text = text_of(answer)
            assert told in text
            assert as_usual in text
            quoted = element(answer, "//li//q").text
            assert quoted == "Faktury można wystawiać w trybie awaryjnym."
            assert "offline24" not in text

    def test_a_certificate_that_ends_soon(self, company: Company, database: Any) -> None:
        database.execute(
            "UPDATE ksef_credentials SET method = 'certificate',"
            " certificate_valid_until = now() + interval '12 days 1 hour'"
        )
        answer = company.get("/console/test?lang=pl")
        assert "pozostało 12 dni" in text_of(answer)
        assert "warn" in element(answer, "//dt[.='Certyfikat']/../dd/span/@class")
        database.execute(
            "UPDATE ksef_credentials SET certificate_valid_until = now() - interval '1 day'"
        )
        assert "Certificate ended on" in text_of(company.get("/console/test?lang=en"))

    def test_a_refused_credential(self, company: Company, database: Any) -> None:
        database.execute(
            "UPDATE ksef_credentials SET refused_code = 450, refused_words = 'Błędny token',"
            " refused_at = now()"
        )
        database.execute("DELETE FROM ksef_sessions")
        text = text_of(company.get("/console/test?lang=en"))
        assert "KSeF refuses the credential (450)" in text
        assert "Błędny token" in text


class TestQuota:
    def test_the_hour_in_five_minutes(
        self, service: Service, company: Company, database: Any
    ) -> None:
        database.execute("DELETE FROM quota_calls")
        ages = (0, 30, 100, 299, 301, 3599, 3700, -2)
        values = ", ".join(
            f"('{company.nip}', 'test', 'sessionList',"
            f" clock_timestamp() - interval '{age} seconds')"
            for age in ages
        )
        database.execute(
            "INSERT INTO quota_calls (company_nip, environment, quota_group, reserved_at)"
            f" VALUES {values}"
        )
        uses = {use.group: use for use in quotas.last_hour(company.account())}
        use = uses["sessionList"]
        assert list(use.slots) == [1] + [0] * 9 + [1, 5]
        assert (use.per_minute, use.per_hour) == (3, 7)
        assert use.limits.per_hour == 54
        assert use.share == pytest.approx(7 / 54)
        assert uses["other"].per_hour == 0
        answer = company.get("/console/test?lang=en")
        label = "//div[@aria-labelledby='group-sessionList']/*[@role='img']/@aria-label"
        assert element(answer, label).endswith(": 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 5")

    def test_a_group_that_is_blocked_or_has_no_limit(
        self, service: Service, company: Company
    ) -> None:
        company.account().calls.block("sessionMisc", 600)
        text = text_of(company.get("/console/test?lang=en"))
        assert "KSeF has refused more until" in text


class TestSessions:
    def test_a_session_page_by_page_and_by_status(
        self, service: Service, company: Company, control: Control
    ) -> None:
        orders: list[dict[str, Any]] = [{} for _ in range(148)]
        orders += [{"status": 450}, {"status": 440}]
        session = asked(service, control, company, kind="batch", invoices=orders)
        path = f"/console/test/sessions/{session.reference_number}?lang=en"

        def ordinals(query: str) -> list[str]:
            page = lxml_html.document_fromstring(company.get(path + query).text)
            return [cell.text for cell in page.xpath("//td[contains(@class, 'ordinal')]")]

        assert ordinals("") == [str(i) for i in range(1, 101)]
        assert ordinals("&page=2") == [str(i) for i in range(101, 151)]
        assert ordinals("&show=rejected") == ["149", "150"]
        assert ordinals("&show=accepted&page=2") == [str(i) for i in range(101, 149)]
        assert ordinals("&show=moving") == []
        text = text_of(company.get(path))
        assert "All 150 Accepted 148 Rejected 2 Processing 0" in text
        assert "Page 1 of 2" in text
        assert "Finished, some rejected" in text

    def test_a_duplicate_whose_original_s_session_ksef_does_not_name(
        self, service: Service, company: Company, control: Control, database: Any
    ) -> None:
        session = asked(service, control, company, invoices=[{"status": 440}])
        [(number,)] = database.execute(
            "UPDATE kept_invoices"
            " SET status = status #- '{extensions,originalSessionReferenceNumber}'"
            " RETURNING status #>> '{extensions,originalKsefNumber}'"
        )

        answer = company.get(f"/console/test/sessions/{session.reference_number}?lang=en")

        assert answer.status_code == 200
        assert f"Repeats {number}" in text_of(answer)
        assert "sent in session" not in text_of(answer)

    def test_only_accepted_invoices_have_a_upo(
        self, service: Service, company: Company, control: Control
    ) -> None:
        session = asked(service, control, company, invoices=[{}, {"status": 450}])
        answer = company.get(f"/console/test/sessions/{session.reference_number}")
        links = lxml_html.document_fromstring(answer.text).xpath("//td//a/@href")
        base = f"/console/test/sessions/{session.reference_number}/{session.ksef_numbers[0]}/upo"
        assert links == [f"{base}.pdf", f"{base}.xml"]

    @pytest.mark.parametrize(
        ("language", "file", "hash_of"),
        [("en", "file", "SHA-256 of the file:"), ("pl", "plik", "Skrót SHA-256 pliku:")],
    )
    def test_a_rejected_invoice_is_known_by_its_file_and_hash(
        self,
        service: Service,
        company: Company,
        control: Control,
        language: str,
        file: str,
        hash_of: str,
    ) -> None:
        session = asked(service, control, company, kind="batch", invoices=[{}, {"status": 430}])
        accepted, refused = session.invoices
        path = f"/console/test/sessions/{session.reference_number}?lang={language}"
        text = text_of(company.get(path))
        assert f"{file} faktura_00002.xml 430" in text
        assert f"{hash_of} {refused.invoice_hash}" in text
        assert accepted.invoice_number in text
        assert accepted.invoice_hash not in text

    def test_an_online_invoice_without_a_number_has_no_file_either(
        self, service: Service, company: Company, control: Control
    ) -> None:
        session = asked(service, control, company, state="open", invoices=[{"status": 150}])
        path = f"/console/test/sessions/{session.reference_number}"
        text = text_of(company.get(f"{path}?lang=en"))
        assert "number not known yet 150" in text
        assert session.invoices[0].invoice_hash in text
        assert "Open until" in text
        assert "Otwarta do" in text_of(company.get(f"{path}?lang=pl"))
        control.change_session("test", session.reference_number, state="finished")
        check_session(company.account(), session.reference_number)
        assert "Open until" not in text_of(company.get(f"{path}?lang=en"))

    def test_the_list_begins_with_what_changed_last(
        self, service: Service, company: Company, control: Control
    ) -> None:
        sessions = [asked(service, control, company, invoices=1) for _ in range(3)]
        answer = company.get("/console/test/sessions")
        shown = lxml_html.document_fromstring(answer.text).xpath("//tbody//a/text()")
        assert shown == [session.reference_number for session in reversed(sessions)]

    def test_what_an_invoice_is_called_is_never_a_script(
        self, service: Service, company: Company, control: Control, database: Any
    ) -> None:
        name = '<script>alert("1")</script>'
        session = asked(service, control, company, invoices=[{"invoiceNumber": name}])
        database.execute("DELETE FROM synced_invoices")
        database.execute(
            "INSERT INTO synced_invoices (company_nip, environment, ksef_number, invoice_number)"
            f" VALUES ('{company.nip}', 'test', '{company.nip}-20260101-ABCDEF-12', $${name}$$)"
        )
        for path in (
            f"/test/sessions/{session.reference_number}",
            "/test/unlinked",
            "/search?number=%3Cscript%3Ealert(%221%22)%3C/script%3E",
        ):
            answer = company.get(f"/console{path}")
            assert answer.status_code == 200
            assert "<script" not in answer.text
            assert name in text_of(answer)


class TestCheck:
    def test_now_asks_ksef_and_links_as_the_api_does(
        self, company: Company, control: Control, database: Any, send: Any
    ) -> None:
        session = control.seed_session("test", company.nip, invoices=1)
        add_synced(database, company.account(), session.ksef_numbers)
        path = f"/test/sessions/{session.reference_number}"
        assert "No answer for this session" in text_of(company.get(f"/console{path}?lang=en"))
        control.clear_calls()
        answer = send(company, f"{path}/check")
        assert answer.status_code == 303
        assert control.calls() != []
        shown = text_of(company.get(answer.headers["Location"]))
        assert "KSeF was asked" in shown
        assert "Check with KSeF now" not in shown  # it is final
        assert "Every row is linked" in text_of(company.get("/console/test"))

    def test_while_simulated_is_a_409_on_a_page(
        self, company: Company, control: Control, send: Any
    ) -> None:
        send(company, "/test/simulation", message="Próba", minutes="15")
        session = control.seed_session("test", company.nip)
        control.clear_calls()
        answer = send(company, f"/test/sessions/{session.reference_number}/check")
        assert answer.status_code == 409
        assert "outage_simulation" in text_of(answer)
        assert control.calls() == []

    @pytest.mark.parametrize(
        ("language", "told"),
        [
            ("pl", "od 15.01.2026, 12:00 do 15.01.2099, 13:30: Próba"),
            ("en", "since 15 Jan 2026, 12:00 until 15 Jan 2099, 13:30: Próba"),
        ],
    )
    def test_an_error_tells_times_as_clocks_in_poland_show_them(
        self, company: Company, database: Any, send: Any, language: str, told: str
    ) -> None:
        database.execute(
            "INSERT INTO outage_simulations (environment, message, starts_at, ends_at)"
            " VALUES ('test', 'Próba', '2026-01-15 11:00+00', '2099-01-15 12:30+00')"
        )
        company.client.set_cookie("lang", language, path="/console")
        answer = send(company, "/test/sessions/20260115-SO-0123456789-ABCDEF0123-4F/check")
        assert answer.status_code == 409
        assert told in text_of(answer)
        assert "+00:00" not in text_of(answer)

    def test_an_outage_on_an_error_page_has_such_a_time_too(
        self, company: Company, database: Any, send: Any
    ) -> None:
        database.execute("DELETE FROM outages")
        database.execute(
            "INSERT INTO outages (environment, consecutive_failures, failing_since, opened_at,"
            " probed_at) VALUES ('test', 5, '2026-01-15 11:00+00', now(), now())"
        )
        answer = send(company, "/test/sessions/20260115-SO-0123456789-ABCDEF0123-4F/check")
        assert answer.status_code == 409
        assert "KSeF nie odpowiada na żadne wywołania od 15.01.2026, 12:00" in text_of(answer)

    def test_what_ksef_does_not_know(self, company: Company, send: Any) -> None:
        answer = send(company, "/test/sessions/20260115-SO-0123456789-ABCDEF0123-4F/check")
        assert answer.status_code == 404
        assert "session_not_found" in text_of(answer)


class TestUpo:
    @pytest.fixture
    def upo(self, service: Service, company: Company, control: Control) -> str:
        session = asked(service, control, company, invoices=1)
        return f"/console/test/sessions/{session.reference_number}/{session.ksef_numbers[0]}/upo"

    def test_a_pdf_opens_and_xml_is_kept(self, company: Company, upo: str) -> None:
        pdf, xml = company.get(f"{upo}.pdf"), company.get(f"{upo}.xml")
        assert pdf.data.startswith(b"%PDF-")
        assert pdf.content_type == "application/pdf"
        assert pdf.headers["Content-Disposition"].startswith("inline; filename=")
        assert xml.data.startswith(b"<?xml")
        assert xml.headers["Content-Disposition"].startswith("attachment; filename=")
        again = company.get(f"{upo}.pdf", headers={"If-None-Match": pdf.headers["ETag"]})
        assert again.status_code == 304

    def test_the_collective_one_of_a_session_opens_and_is_kept(
        self, company: Company, service: Service, control: Control
    ) -> None:
        session = asked(service, control, company, kind="batch", invoices=3)
        page = f"/console/test/sessions/{session.reference_number}"
        shown = company.get(f"{page}?lang=pl")
        links = lxml_html.document_fromstring(shown.text).xpath("//dl//a/@href")
        assert links == [f"{page}/upo.pdf", f"{page}/upo.xml"]
        assert "UPO zbiorcze sesji" in text_of(shown)
        pdf, xml = company.get(links[0]), company.get(links[1])
        assert pdf.data.startswith(b"%PDF-")
        name = f"{session.upo_pages[0]}-upo"
        assert pdf.headers["Content-Disposition"] == f'inline; filename="{name}.pdf"'
        assert "object-src 'self'" in pdf.headers["Content-Security-Policy"]
        assert all(number.encode() in xml.data for number in session.ksef_numbers)
        assert xml.headers["Content-Disposition"] == f'attachment; filename="{name}.xml"'
        again = company.get(links[0], headers={"If-None-Match": pdf.headers["ETag"]})
        assert again.status_code == 304

    @pytest.mark.parametrize("doc_type", ["pdf", "xml"])
    def test_all_pages_of_the_collective_one_come_in_a_zip(
        self, company: Company, service: Service, control: Control, doc_type: str
    ) -> None:
        control.settings(upoPageSize=2)
        session = asked(service, control, company, kind="batch", invoices=5)
        page = f"/console/test/sessions/{session.reference_number}"
        shown = company.get(f"{page}?lang=en")
        assert "PDF (ZIP) XML (ZIP) 3 pages" in text_of(shown)
        links = lxml_html.document_fromstring(shown.text).xpath("//dl//a[@download]/@href")
        assert f"{page}/upo.{doc_type}" in links
        answer = company.get(f"{page}/upo.{doc_type}")
        assert answer.content_type == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.data)) as packed:
            assert packed.namelist() == [f"{page}-upo.{doc_type}" for page in session.upo_pages]

    def test_a_session_without_a_collective_one_offers_none(
        self, company: Company, service: Service, control: Control
    ) -> None:
        session = asked(service, control, company, state="open", invoices=1)
        page = f"/console/test/sessions/{session.reference_number}"
        assert "/upo." not in "".join(
            lxml_html.document_fromstring(company.get(page).text).xpath("//dl//a/@href")
        )
        answer = company.get(f"{page}/upo.pdf", headers=ENGLISH)
        assert answer.status_code == 404
        assert "upo_not_available" in text_of(answer)

    def test_an_archived_one_has_its_verdict(
        self, company: Company, service: Service, control: Control
    ) -> None:
        session = asked(service, control, company, invoices=3)
        page = f"/console/test/sessions/{session.reference_number}"
        assert "signature" not in text_of(company.get(f"{page}?lang=en"))
        assert "signer" not in text_of(company.get("/console/test?lang=en"))
        control.fault(
            "upo-other-signer", service="storage", path=session.invoices[1].reference_number
        )
        for number in session.ksef_numbers[:2]:
            company.get(f"{page}/{number}/upo.xml")
        shown = text_of(company.get(f"{page}?lang=en"))
        assert (shown.count("signature valid"), shown.count("unknown signer")) == (1, 1)

    def test_an_unknown_signer_is_shown_with_what_to_add(
        self, company: Company, service: Service, control: Control
    ) -> None:
        newest = control.rotate_signers("test")
        session = asked(service, control, company, invoices=2)
        for number in session.ksef_numbers:
            company.get(f"/console/test/sessions/{session.reference_number}/{number}/upo.xml")
        shown = text_of(company.get("/console/test?lang=en"))
        assert "UPO_SIGNERS_TEST" in shown
        signer = "Ministerstwo Finansów (SANDBOX), VATPL-5260250274"
        assert f"{newest} {signer} (2 UPOs)" in shown
        assert newest not in text_of(company.get("/console/demo"))

    def test_simulation_comes_before_the_archive(
        self, company: Company, upo: str, send: Any
    ) -> None:
        assert company.get(f"{upo}.pdf").status_code == 200
        send(company, "/test/simulation", message="Próba", minutes="0")
        answer = company.get(f"{upo}.pdf")
        assert answer.status_code == 409
        assert answer.content_type == "text/html; charset=utf-8"

    def test_a_wrong_number_goes_nowhere(
        self, company: Company, upo: str, control: Control
    ) -> None:
        control.clear_calls()
        answer = company.get(upo[:-5] + "X/upo.pdf")
        assert answer.status_code == 400
        assert control.calls() == []


class TestSearch:
    def test_a_kept_session_opens_at_once(
        self, service: Service, company: Company, control: Control
    ) -> None:
        session = asked(service, control, company)
        answer = company.get(f"/console/search?number=%20{session.reference_number}")
        assert answer.status_code == 303
        assert answer.headers["Location"] == f"/console/test/sessions/{session.reference_number}"

    def test_a_session_that_is_not_kept_may_be_asked_for(self, company: Company) -> None:
        number = "20260115-SO-0123456789-ABCDEF0123-4F"
        answer = company.get(f"/console/search?number={number}")
        links = lxml_html.document_fromstring(answer.text).xpath("//main//a/@href")
        assert links == [
            f"/console/{environment}/sessions/{number}" for environment in ("prod", "demo", "test")
        ]

    @pytest.mark.parametrize("by", ["ksef_number", "invoice_number"])
    def test_an_invoice_by_either_number(
        self, service: Service, company: Company, control: Control, database: Any, by: str
    ) -> None:
        session = asked(service, control, company, invoices=[{"invoiceNumber": "FV 1/ą"}])
        add_synced(database, company.account(), session.ksef_numbers)
        number = session.ksef_numbers[0] if by == "ksef_number" else "FV 1/ą"
        text = text_of(
            company.get("/console/search", query_string={"number": number, "lang": "en"})
        )
        assert "In KSeF's answers" in text
        assert ("with a KSeF number" in text) == (by == "ksef_number")
        assert session.reference_number in text
        assert ("In the company's rows" in text) == (by == "ksef_number")

    def test_an_invoice_whose_number_has_a_blank_that_does_not_break(
        self, service: Service, company: Company, control: Control
    ) -> None:
        session = asked(service, control, company, invoices=[{"invoiceNumber": "FV\u00a01"}])
        answer = company.get("/console/search", query_string={"number": "FV\u00a01"})
        assert session.reference_number in text_of(answer)
        assert company.get("/console/search?number=FV%0A1").status_code == 400

    def test_nothing_and_nothing_asked_for(self, company: Company) -> None:
        assert "Nothing is known" in text_of(company.get("/console/search?number=x&lang=en"))
        assert "Enter a" in text_of(company.get("/console/search"))


class TestUnlinkedRows:
    def test_of_both_tables_the_newest_first(self, company: Company, database: Any) -> None:
        add_offline(database, company.account(), ["20260101-SO-X-Y-1", "20260101-SO-X-Y-2"])
        add_synced(
            database,
            company.account(),
            ["5265877635-20260101-ABCDEF-11"],
            session="20260101-SO-X-Y-3",
        )
        text = text_of(company.get("/console/test/unlinked?lang=en"))
        assert "2 rows" in text
        assert "OFF/0" in text
        assert "Kind of invoice" in text
        assert "issued offline" in text
        assert "FV/5265877635" not in text

    def test_only_the_newest_are_looked_through(
        self, service: Service, company: Company, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(console, "NEWEST", 1)
        add_synced(database, company.account(), ["5265877635-20250101-ABCDEF-13"])
        database.execute("UPDATE synced_invoices SET created_at = now() - interval '1 year'")
        database.execute(
            "INSERT INTO synced_invoices (company_nip, environment, ksef_number, invoice_number)"
            f" VALUES ('{company.nip}', 'test', '5265877635-20250101-ABCDEF-14', 'FV/new')"
        )
        page = console.unlinked(company.account(), skip=0, take=10)
        assert [row.invoice_number for row in page.entries] == ["FV/new"]


class TestCompanies:
    def test_nothing_of_another_company_is_ever_shown(
        self, service: Service, company: Company, make_company: Any, control: Control, database: Any
    ) -> None:
        session = asked(service, control, company, invoices=[{"invoiceNumber": "FV/SECRET"}])
        add_synced(database, company.account(), ["5265877635-20260101-ABCDEF-12"])
        add_offline(database, company.account(), ["20260101-SO-X-Y-1"])
        other = make_company("1111111111", logged_in=False)
        number, ksef_number = session.reference_number, session.ksef_numbers[0]

        def shown(to: Company) -> str:
            paths = ("", "/test", "/test/sessions", "/test/unlinked")
            return "".join(to.get(f"/console{path}").text for path in paths)

        def found(by: Company, wanted: str) -> int:
            page = by.get("/console/search", query_string={"number": wanted})
            return len(lxml_html.document_fromstring(page.text).xpath("//table"))

        for wanted in ("FV/SECRET", ksef_number):
            assert (found(company, wanted), found(other, wanted)) == (1, 0)
        mine, theirs = shown(company), shown(other)
        for secret in (number, "OFF/0", "FV/5265", company.nip, company.email):
            assert secret in mine, secret
            assert secret not in theirs, secret
        answer = other.get(f"/console/test/sessions/{number}?lang=en")
        assert "No answer for this session" in text_of(answer)
        assert "FV/SECRET" not in answer.text
        assert (
            other.get(f"/console/test/sessions/{number}/{ksef_number}/upo.xml").status_code == 404
        )


class TestForms:
    SIMULATION = "/console/test/simulation"
    FIELDS = {"message": "Próba", "minutes": "15"}  # noqa: RUF012

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "none"},
            {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
            {"Origin": "http://elsewhere.example"},
            {"Origin": "http://localhost:8081"},
            {"Origin": "null"},
        ],
        ids=str,
    )
    def test_not_from_this_origin(
        self, company: Company, tokens: FormTokens, headers: dict[str, str]
    ) -> None:
        form = {"token": tokens.token(company.email), **self.FIELDS}
        answer = company.request("POST", self.SIMULATION, headers=headers, data=form)
        assert answer.status_code == 403
        assert company.get("/outages/test").get_json()["outage"]["source"] is None

    @pytest.mark.parametrize("headers", [SAME_ORIGIN, {"Origin": "http://localhost"}], ids=str)
    def test_from_this_origin(
        self, company: Company, tokens: FormTokens, headers: dict[str, str]
    ) -> None:
        form = {"token": tokens.token(company.email), **self.FIELDS}
        answer = company.request("POST", self.SIMULATION, headers=headers, data=form)
        assert answer.status_code == 303
        assert company.get("/outages/test").get_json()["outage"]["source"] == "simulation"

    def test_without_a_token_or_with_another_users(
        self, company: Company, tokens: FormTokens
    ) -> None:
        for token in (
            "",
            "x",
            tokens.token("another@example.com"),
            tokens.token(company.email)[1:],
        ):
            answer = company.request(
                "POST", self.SIMULATION, headers=SAME_ORIGIN, data={"token": token, **self.FIELDS}
            )
            assert answer.status_code == 403, token
        missing = company.request("POST", self.SIMULATION, headers=SAME_ORIGIN, data=self.FIELDS)
        assert missing.status_code == 403
        assert company.get("/outages/test").get_json()["outage"]["source"] is None

    def test_the_pages_own_token_is_good(self, company: Company) -> None:
        page = company.get("/console/test")
        token = element(page, "//form[@method='post']//input[@name='token']/@value")
        answer = company.request(
            "POST", self.SIMULATION, headers=SAME_ORIGIN, data={"token": token, **self.FIELDS}
        )
        assert answer.status_code == 303

    def test_every_replica_and_every_key_that_is_left_knows_a_token(self) -> None:
        old, new = b"o" * 32, b"n" * 32
        token = FormTokens([old]).token("a@b.example")
        assert FormTokens([new, old]).is_good(token, "a@b.example")
        assert not FormTokens([new]).is_good(token, "a@b.example")
        assert FormTokens([new]).is_good(FormTokens([new, old]).token("a@b.example"), "a@b.example")


class TestSimulation:
    @pytest.mark.parametrize(
        "fields",
        [
            {"message": "x", "minutes": "١٥"},
            {"message": "x", "minutes": " 15"},
            {"message": "x", "minutes": ""},
        ],
        ids=str,
    )
    def test_fields_that_are_not_what_they_should_be(
        self, company: Company, send: Any, database: Any, fields: Any
    ) -> None:
        assert send(company, "/demo/simulation", **fields).status_code == 400
        assert database.execute("SELECT * FROM outage_simulations") == []

    @pytest.mark.parametrize(("message", "status"), [("x%ff", 400), ("x\xff", 403)])
    def test_a_message_that_is_no_utf_8(
        self, company: Company, tokens: FormTokens, database: Any, message: str, status: int
    ) -> None:
        """Where the bytes are not even escaped, no token is found among them either."""
        form = f"token={tokens.token(company.email)}&minutes=15&message={message}"
        answer = company.request(
            "POST",
            "/console/demo/simulation",
            headers=SAME_ORIGIN,
            data=form.encode("latin-1"),
            content_type="application/x-www-form-urlencoded",
        )
        assert answer.status_code == status
        assert database.execute("SELECT * FROM outage_simulations") == []

    def test_on_and_off(self, company: Company, send: Any, database: Any) -> None:
        on = send(company, "/demo/simulation", message="Próba trybu", minutes="60")
        text = text_of(company.get(on.headers["Location"], headers={"Accept-Language": "en"}))
        assert "The simulation has begun" in text
        assert "Próba trybu" in text
        [(ends_at,)] = database.execute("SELECT ends_at FROM outage_simulations")
        assert timedelta(minutes=59) < ends_at - datetime.now(UTC) <= timedelta(minutes=60)
        off = send(company, "/demo/simulation/end")
        assert "Symulacja zakończona" in text_of(company.get(off.headers["Location"] + "&lang=pl"))
        assert database.execute("SELECT * FROM outage_simulations") == []

    def test_it_lasts_as_long_as_was_chosen_whatever_our_clock_says(
        self, company: Company, send: Any, database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow = clock.now() - timedelta(minutes=20)
        monkeypatch.setattr(clock, "now", lambda: slow)
        send(company, "/demo/simulation", message="Próba trybu", minutes="15")
        [(left,)] = database.execute("SELECT ends_at - now() FROM outage_simulations")
        assert timedelta(minutes=14) < left <= timedelta(minutes=15)

    def test_a_message_with_a_blank_that_does_not_break(self, company: Company, send: Any) -> None:
        send(company, "/demo/simulation", message="od\u00a08:00", minutes="15")
        assert "od 8:00" in text_of(company.get("/console/demo"))

    def test_one_until_the_end_of_the_calendar_is_told(
        self, company: Company, database: Any
    ) -> None:
        """Such a row may be there: it was begun by command once."""
        database.execute(
            "INSERT INTO outage_simulations (environment, message, ends_at)"
            " VALUES ('demo', 'for ever', '9999-12-31 23:30+00')"
        )
        for page in ("/console", "/console/demo"):
            for language in ("pl", "en"):
                answer = company.get(f"{page}?lang={language}")
                assert answer.status_code == 200
                assert "9999" in text_of(answer)

    def test_never_of_production(self, company: Company, send: Any, database: Any) -> None:
        assert "/simulation" not in company.get("/console/prod").text
        answer = send(company, "/prod/simulation", message="Próba", minutes="0")
        assert answer.status_code == 403
        assert "simulation_forbidden" in text_of(answer)
        assert send(company, "/prod/simulation/end").status_code == 403
        assert database.execute("SELECT * FROM outage_simulations") == []

    def test_for_admins_only(self, make_company: Any, send: Any, database: Any) -> None:
        technical = make_company("5265877635", role="technical", logged_in=False)
        assert "/simulation" not in technical.get("/console/demo").text
        answer = send(technical, "/demo/simulation", message="Próba", minutes="0")
        assert answer.status_code == 403
        assert database.execute("SELECT * FROM outage_simulations") == []

    @pytest.mark.parametrize(
        "fields",
        [
            {"message": "", "minutes": "15"},
            {"message": "x" * 1001, "minutes": "15"},
            {"message": "a\0b", "minutes": "15"},
            {"message": " \u00a0", "minutes": "15"},
            {"message": "a", "minutes": "7"},
            {"message": "a"},
            {"message": "a", "minutes": "15", "more": "x"},
        ],
        ids=str,
    )
    def test_a_wrong_form(self, company: Company, send: Any, fields: dict[str, str]) -> None:
        assert send(company, "/demo/simulation", **fields).status_code == 400
