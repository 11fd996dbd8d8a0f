"""The pages of the console, and its two forms."""

import re
from datetime import timedelta
from typing import Any

from flask import Response, redirect, url_for
from werkzeug.exceptions import NotFound

from app.api.basic_auth import CHALLENGE, admins_only
from app.api.schemas import EnvironmentPath, SessionPath, UpoPath
from app.api.upo import document, only_page, zipped
from app.console.blueprint import blueprint, takes
from app.console.context import SHOWN_ENVIRONMENTS, render
from app.console.schemas import (
    MINUTES,
    Form,
    InvoicesPaging,
    Looking,
    Paging,
    Searching,
    SimulationForm,
)
from app.context import account, caller, service
from app.identifiers import HEX_HASH, INVOICE_HASH, KSEF_NUMBER, REFERENCE_NUMBER, base64_hash
from app.services import outages
from app.services.events import journal, webhooks
from app.services.operators import overview as console
from app.services.sessions import search
from app.services.sessions.check import check_session
from app.services.upo import archive
from app.services.upo.fetch import DocType, fetch_session_upo, fetch_upo

PAGE = 100
_SESSIONS_PAGE = 50
_SHORT = 8  # rows of the lists on an environment's page
_ON_A_CARD = 3  # sessions on an environment's card
_DISPOSITIONS: dict[DocType, str] = {"pdf": "inline", "xml": "attachment"}


@blueprint.get("/console")
@takes()
def overview() -> Response:
    """Every environment on a card."""
    cards = []
    for environment in SHOWN_ENVIRONMENTS:
        where = account(environment)
        cards.append(
            (
                environment,
                console.overview(where),
                console.sessions(where, skip=0, take=_ON_A_CARD),
            )
        )
    return render("overview.html", cards=cards)


@blueprint.get("/console/")
def with_slash() -> Any:
    """Redirects from the address with a slash at its end."""
    return redirect(url_for("console.overview"))


@blueprint.get("/console/search")
@takes(query=Searching)
def find(query: dict[str, Any]) -> Any:
    """Search for a number in all environments; a session that is known is opened directly."""
    number = query["number"].strip()
    if re.fullmatch(REFERENCE_NUMBER, number, re.ASCII):
        return _find_session(number)
    by, name = "invoice_number", number
    if re.fullmatch(KSEF_NUMBER, number, re.ASCII):
        by = "ksef_number"
    elif re.fullmatch(f"{INVOICE_HASH}|{HEX_HASH}", number, re.ASCII):
        by, name = "invoice_hash", base64_hash(number)
    found = {}
    if number:
        found = {where: search.find(account(where), **{by: name}) for where in SHOWN_ENVIRONMENTS}
    found = {name: each for name, each in found.items() if each.rows or each.answers}
    return render("search.html", number=number, found=found, ask=())


def _find_session(number: str) -> Any:
    kept_in = console.environments_of(service().db, caller().company_nip, number)
    if len(kept_in) == 1:
        return redirect(
            url_for("console.session", environment=kept_in[0], referenceNumber=number), 303
        )
    return render("search.html", number=number, found={}, ask=kept_in or SHOWN_ENVIRONMENTS)


@blueprint.get("/console/<environment>")
@takes(EnvironmentPath, Looking)
def environment(path: dict[str, str], query: dict[str, Any]) -> Response:
    """One environment: its state with the evidence, quota, sessions, events, unlinked rows."""
    where = account(path["environment"])
    sessions = console.sessions(where, skip=0, take=_SHORT)
    unlinked = console.unlinked(where, skip=0, take=_SHORT)
    return render(
        "environment.html",
        environment=where.environment,
        state=console.overview(where),
        sessions=sessions,
        unlinked=unlinked,
        followed=console.followed(where, most=_SHORT),
        webhooks=webhooks.of_account(where),
        events=journal.newest(where, _SHORT),
        unknown_signers=archive.unknown_signers(where),
        newest=console.NEWEST,
        may_simulate=caller().role == "admin" and where.environment != outages.PRODUCTION,
        minutes=MINUTES,
        done=query["done"],
    )


@blueprint.get("/console/<environment>/sessions")
@takes(EnvironmentPath, Paging)
def sessions(path: dict[str, str], query: dict[str, Any]) -> Response:
    """All kept sessions, page by page."""
    skip = (query["page"] - 1) * _SESSIONS_PAGE
    found = console.sessions(account(path["environment"]), skip=skip, take=_SESSIONS_PAGE)
    return render(
        "sessions.html",
        environment=path["environment"],
        sessions=found,
        newest=console.NEWEST,
        page=query["page"],
        pages=_pages(found.total, _SESSIONS_PAGE),
    )


@blueprint.get("/console/<environment>/unlinked")
@takes(EnvironmentPath, Paging)
def unlinked(path: dict[str, str], query: dict[str, Any]) -> Response:
    """The invoice rows without a session, page by page."""
    skip = (query["page"] - 1) * PAGE
    found = console.unlinked(account(path["environment"]), skip=skip, take=PAGE)
    return render(
        "unlinked.html",
        environment=path["environment"],
        unlinked=found,
        newest=console.NEWEST,
        page=query["page"],
        pages=_pages(found.total, PAGE),
    )


@blueprint.get("/console/<environment>/sessions/<referenceNumber>")
@takes(SessionPath, InvoicesPaging)
def session(path: dict[str, str], query: dict[str, Any]) -> Response:
    """A kept session with its invoices, page by page."""
    where, reference_number = account(path["environment"]), path["reference_number"]
    kept = console.session(where, reference_number)
    invoices, counts = console.invoices(
        where,
        reference_number,
        query["show"],
        skip=(query["page"] - 1) * PAGE,
        take=PAGE,
    )
    return render(
        "session.html",
        environment=where.environment,
        signatures=archive.signatures(where, reference_number, invoices),
        reference_number=reference_number,
        kept=kept,
        invoices=invoices,
        counts=counts,
        filters=console.FILTERS,
        show=query["show"],
        page=query["page"],
        pages=_pages(getattr(counts, query["show"]), PAGE),
        done=query["done"],
    )


@blueprint.post("/console/<environment>/sessions/<referenceNumber>/check")
@takes(SessionPath, form=Form)
def check(path: dict[str, str], _form: dict[str, str]) -> Any:
    """Check a session as the API does, which may ask KSeF, and show it."""
    check_session(account(path["environment"]), path["reference_number"])
    return redirect(
        url_for(
            "console.session",
            environment=path["environment"],
            referenceNumber=path["reference_number"],
            done="checked",
        ),
        303,
    )


@blueprint.get("/console/<environment>/sessions/<referenceNumber>/<ksefNumber>/upo.pdf")
@takes(UpoPath)
def upo_pdf(path: dict[str, str]) -> Response:
    """The UPO of an invoice as a PDF, to view in the browser."""
    return _upo(path, "pdf")


@blueprint.get("/console/<environment>/sessions/<referenceNumber>/<ksefNumber>/upo.xml")
@takes(UpoPath)
def upo_xml(path: dict[str, str]) -> Response:
    """The UPO of an invoice as the XML that KSeF signed, to download."""
    return _upo(path, "xml")


@blueprint.get("/console/<environment>/sessions/<referenceNumber>/upo.pdf")
@takes(SessionPath)
def session_upo_pdf(path: dict[str, str]) -> Response:
    """The collective UPO of a session as a PDF, to view; a ZIP of its pages if it has several."""
    return _session_upo(path, "pdf")


@blueprint.get("/console/<environment>/sessions/<referenceNumber>/upo.xml")
@takes(SessionPath)
def session_upo_xml(path: dict[str, str]) -> Response:
    """The collective UPO of a session as signed XML, to download; a ZIP if it has several pages."""
    return _session_upo(path, "xml")


def _upo(path: dict[str, str], doc_type: DocType) -> Response:
    number = path["ksef_number"]
    file = fetch_upo(account(path["environment"]), path["reference_number"], number, doc_type)
    return _viewable(document(file, f"{number}-upo.{doc_type}", _DISPOSITIONS[doc_type]))


def _session_upo(path: dict[str, str], doc_type: DocType) -> Response:
    number = path["reference_number"]
    pages = fetch_session_upo(account(path["environment"]), number, doc_type)
    if len(pages) > 1:
        return zipped(number, pages)
    return _viewable(only_page(pages, _DISPOSITIONS[doc_type]))


def _viewable(response: Response) -> Response:
    # A browser's PDF viewer needs its own inline styles and an object element.
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'"
    )
    return response


@blueprint.post("/console/<environment>/simulation")
@admins_only
@takes(EnvironmentPath, form=SimulationForm)
def begin_simulation(path: dict[str, str], form: dict[str, Any]) -> Any:
    """Simulate an outage for the caller's company."""
    minutes = form["minutes"]
    outages.simulate(
        service().db,
        path["environment"],
        company_nip=caller().company_nip,
        message=form["message"],
        ends_at=service().db.now() + timedelta(minutes=minutes) if minutes else None,
    )
    return _to_environment(path, "simulation_on")


@blueprint.post("/console/<environment>/simulation/end")
@admins_only
@takes(EnvironmentPath, form=Form)
def end_simulation(path: dict[str, str], _form: dict[str, str]) -> Any:
    """End the simulation of the caller's company."""
    outages.clear(service().db, path["environment"], company_nip=caller().company_nip)
    return _to_environment(path, "simulation_off")


@blueprint.get("/console/logout")
@takes()
def log_out() -> Response:
    """Makes the browser forget the password: with HTTP Basic there is no way but a 401."""
    response = render("logged_out.html", status=401)
    response.headers["WWW-Authenticate"] = CHALLENGE
    return response


@blueprint.get("/console/<path:rest>")
def nowhere(**_url: str) -> Response:
    """Any other address: a 404 as a page of the console."""
    raise NotFound


def _to_environment(path: dict[str, str], done: str) -> Any:
    return redirect(url_for("console.environment", environment=path["environment"], done=done), 303)


def _pages(total: int, size: int) -> int:
    return max(1, -(-total // size))
