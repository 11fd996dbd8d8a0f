"""Rules that every route, error, setting and command keeps, also those that are still to come.

That they stand in the documentation: tests/test_docs.py.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from flask import Flask

from app import errors, settings
from app.console.context import form_tokens
from app.context import EXTENSION
from app.settings import Settings
from sandbox.control import Control
from tests.service import Company

PROJECT = Path(__file__).parents[2]
DOCS = {
    "/docs",
    "/docs/start.js",
    "/docs/swagger-ui-bundle.js",
    "/docs/swagger-ui.css",
    "/docs/favicon-32x32.png",
}
PUBLIC = {"/", "/status", "/livez", "/readyz", "/openapi.json", "/console/style.css", *DOCS}
# For people and for machines that read the description: neither stands in it.
UNDESCRIBED = ("/openapi.json", "/docs", "/console")
ADMINS_ONLY = {
    ("PUT", "/outages/<environment>/simulation"),
    ("DELETE", "/outages/<environment>/simulation"),
    ("POST", "/console/<environment>/simulation"),
    ("POST", "/console/<environment>/simulation/end"),
}
# With HTTP Basic, a 401 is what makes a browser forget the password.
LOGS_OUT = {("GET", "/console/logout"), ("HEAD", "/console/logout")}
SAFE = {"GET", "HEAD", "OPTIONS"}
LINKED = {
    "/console",
    "/console/",
    "/console/search",
    "/console/<environment>",
    "/console/<environment>/sessions",
    "/console/<environment>/unlinked",
    "/console/<environment>/sessions/<referenceNumber>",
    "/console/<path:rest>",
}
PLACEHOLDERS = {
    "rest": "no/such/page",
    "environment": "test",
    "referenceNumber": "20260115-SO-0123456789-ABCDEF0123-4F",
    "ksefNumber": "5265877635-20250826-0100001AF629-AF",
}


def routes(app: Flask) -> Iterator[tuple[str, str, str]]:
    """Every method of every route: the method, the rule, a path that fits it."""
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: PLACEHOLDERS[found[1]], rule.rule)
        for method in sorted(rule.methods or ()):
            yield method, rule.rule, path


def answers(
    app: Flask, control: Control, headers: Mapping[str, str], form: Mapping[str, str] | None = None
) -> dict[tuple[str, str], int]:
    """The status of every route that is not public, asked with these headers and this form."""
    client = app.test_client()
    found = {
        (method, rule): client.open(
            path,
            method=method,
            headers=dict(headers),
            data=form if rule.startswith("/console") else None,
        ).status_code
        for method, rule, path in routes(app)
        if rule not in PUBLIC
    }
    assert found
    assert control.calls() == []
    return found


def operations(document: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """The operations of the OpenAPI document, by method and Flask's rule."""
    return {
        (method.upper(), re.sub(r"{(\w+)}", r"<\1>", path)): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }


@pytest.fixture(scope="module")
def document() -> Any:
    """The OpenAPI document; it needs neither database nor KSeF."""
    from app import create_app

    app = create_app(
        Settings(
            database_url="host=/nowhere",
            secret_keys=(bytes(32),),
            ksef_urls=settings.DEFAULT_KSEF_URLS,
        )
    )
    yield app.test_client().get("/openapi.json").get_json()
    app.extensions[EXTENSION].db.close()


class TestRoutes:
    def test_what_is_public_answers_anybody(self, app: Flask) -> None:
        client = app.test_client()
        for path in PUBLIC:
            with client.get(path) as answer:
                assert answer.status_code == 200, path

    def test_all_else_needs_credentials(self, app: Flask, control: Control) -> None:
        found = answers(app, control, {})
        assert found == dict.fromkeys(found, 401)

    def test_and_good_ones(self, app: Flask, company: Company, control: Control) -> None:
        wrong = {"Authorization": company.authorization["Authorization"][:-8] + "AAAAAAA="}
        found = answers(app, control, wrong)
        assert found == dict.fromkeys(found, 401)

    def test_and_a_role_that_opens_something(
        self, app: Flask, make_company: Any, control: Control
    ) -> None:
        auditor = make_company("5265877635", role="auditor", logged_in=False)
        found = answers(app, control, auditor.authorization)
        assert found == dict.fromkeys(found, 403)

    def test_some_are_for_admins(self, app: Flask, make_company: Any, control: Control) -> None:
        technical = make_company("5265877635", role="technical", logged_in=False)
        with app.app_context():
            form = {"token": form_tokens().token(technical.email)}
        own = {**technical.authorization, "Sec-Fetch-Site": "same-origin"}
        found = answers(app, control, own, form)
        assert {route for route, status in found.items() if status == 403} == ADMINS_ONLY
        assert {route for route, status in found.items() if status == 401} == LOGS_OUT

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    def test_other_sites_may_only_lead_to_pages_that_ask_ksef_nothing(
        self, app: Flask, company: Company, control: Control, site: str
    ) -> None:
        with app.app_context():
            form = {"token": form_tokens().token(company.email)}
        headers = {**company.authorization, "Sec-Fetch-Site": site}
        found = answers(app, control, headers, form)
        let_in = {rule for (method, rule), status in found.items() if status != 403}
        assert let_in == LINKED
        assert {m for (m, _), status in found.items() if status not in (403, 405)} <= SAFE

    @pytest.mark.parametrize(
        "origin",
        ["http://elsewhere.example", "http://localhost:8081", "null", "http://[", "localhost", ""],
    )
    def test_other_origins_change_nothing(
        self, app: Flask, make_company: Any, control: Control, origin: str
    ) -> None:
        company = make_company("5265877635", logged_in=False)
        with app.app_context():
            form = {"token": form_tokens().token(company.email)}
        headers = {**company.authorization, "Origin": origin}
        found = answers(app, control, headers, form)
        unsafe = {route: status for route, status in found.items() if route[0] not in SAFE}
        assert unsafe
        assert unsafe == dict.fromkeys(unsafe, 403)

    def test_programs_and_our_own_pages_are_let_in(
        self, app: Flask, make_company: Any, control: Control
    ) -> None:
        """What no browser sends, /docs, an address that was typed."""
        company = make_company("5265877635", logged_in=False)
        for stated in (
            {},
            {"Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "none"},
            {"Origin": "http://localhost"},
            {"Origin": "https://LOCALHOST"},  # its TLS ends at a proxy
            {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
        ):
            found = answers(app, control, {**company.authorization, **stated})
            refused = {route for route, status in found.items() if status == 403}
            assert {rule.startswith("/console") for _, rule in refused} == {True}, stated
            assert {method for method, _ in refused} == {"POST"}, stated

    def test_who_asks_is_asked_before_from_where(self, app: Flask, company: Company) -> None:
        client, path = app.test_client(), "/auth/x?y=z"
        headers = {"Sec-Fetch-Site": "cross-site"}
        assert client.post(path, headers=headers).status_code == 401
        assert company.request("POST", path, headers=headers).status_code == 403
        assert company.request("POST", path).status_code == 400

    @pytest.mark.parametrize("credentials", [False, True])
    def test_every_answer_has_its_protective_headers(
        self, app: Flask, company: Company, credentials: bool
    ) -> None:
        """Answers, errors and what Flask answers by itself; nothing is stored without an ETag."""
        headers = company.authorization if credentials else {}
        client = app.test_client()
        asked = {(method, path) for method, _, path in routes(app)}
        asked |= {("GET", "/nowhere"), ("PATCH", "/status"), ("GET", "/invoices/x/status/y")}
        for method, path in asked:
            response = client.open(path, method=method, headers=headers)
            assert response.headers["X-Content-Type-Options"] == "nosniff", path
            for name in ("Cross-Origin-Opener-Policy", "Cross-Origin-Resource-Policy"):
                assert response.headers[name] == "same-origin", (name, path)
            assert response.headers["Referrer-Policy"] == "same-origin", path
            policy = response.headers["Content-Security-Policy"].split("; ")
            assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(policy), path
            if not path.startswith(("/console", "/docs")):
                assert len(policy) == 2, path
            if path in DOCS | {"/console/style.css"}:  # the same for everybody
                response.close()
                continue
            kept = "private, max-age=5" if path.startswith("/events/") else "private, no-cache"
            stored = kept if "ETag" in response.headers else "no-store"
            assert response.headers["Cache-Control"] == stored, (method, path)

    def test_every_route_is_described_with_who_may_ask(self, app: Flask, document: Any) -> None:
        described = operations(document)
        ours = {
            (method, rule)
            for method, rule, _ in routes(app)
            if method not in ("HEAD", "OPTIONS")
            and rule != "/"
            and not rule.startswith(UNDESCRIBED)
        }
        assert set(described) == ours
        for (method, rule), operation in described.items():
            expected = [] if rule in PUBLIC else [{"basic": []}]
            assert operation["security"] == expected, (method, rule)
            assert operation["summary"], (method, rule)
        scheme = document["components"]["securitySchemes"]["basic"]
        assert (scheme["type"], scheme["scheme"]) == ("http", "basic")


def error_classes(base: type[errors.ProxyError] = errors.ProxyError) -> set[type]:
    """The errors that have a code of their own."""
    inner = {kind for child in base.__subclasses__() for kind in error_classes(child)}
    return inner | ({base} if "code" in vars(base) else set())


ERRORS = {kind.code: kind.status for kind in error_classes() if kind.__module__ == "app.errors"}


class TestErrors:
    def test_each_code_is_described_where_it_may_come_and_nothing_else(self, document: Any) -> None:
        described = {
            (code, int(status))
            for operation in operations(document).values()
            for status, answer in operation["responses"].items()
            if "application/problem+json" in answer.get("content", {})
            for code in answer["content"]["application/problem+json"]["schema"]["properties"][
                "code"
            ]["enum"]
        }
        assert described == set(ERRORS.items())

    def test_each_code_has_one_title(self) -> None:
        titles = [kind.title for kind in error_classes()]
        assert all(titles)
        assert len(set(titles)) == len(titles)

    def test_the_tree_is_drawn_as_it_is(self) -> None:
        drawn = set(re.findall(r"(?:├──|└──) (\w+)", errors.__doc__ or ""))
        every = [*errors.ProxyError.__subclasses__()]
        for kind in every:
            every += kind.__subclasses__()
        assert drawn == {kind.__name__ for kind in every if kind.__module__ == "app.errors"}


class Asked(dict[str, str]):
    """An environment that remembers which variables were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return default


def setting_names() -> set[str]:
    """The variables that the service reads."""
    asked = Asked()
    with pytest.raises(settings.SettingsError):
        settings.from_environment(asked)
    return asked.names


def test_no_variable_is_read_elsewhere() -> None:
    readers = [
        path.relative_to(PROJECT).as_posix()
        for path in (PROJECT / "app").rglob("*.py")
        if re.search(r"(?<!request\.)\benviron\b|\bgetenv\b", path.read_text("utf-8"))
    ]
    # The others write: settings from files; what gunicorn and prometheus-client read.
    assert sorted(readers) == [
        "app/__main__.py",
        "app/gunicorn.py",
        "app/serve.py",
        "app/settings.py",
    ]


def commands(group: click.Group, *before: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)
        elif command.callback.__module__.startswith("app."):  # Flask brings its own
            yield " ".join((*before, name)), command
