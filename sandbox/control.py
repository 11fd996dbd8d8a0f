"""A client of the control plane, for tests, `make run` and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import requests


class ControlError(Exception):
    """The control plane refused an order; the message says why."""


@dataclass(frozen=True)
class SeededInvoice:
    """An invoice made by the control plane. `ksef_number` is the one it has or will get."""

    ordinal_number: int
    reference_number: str
    invoice_number: str | None
    ksef_number: str | None
    status: int
    outcome: int


@dataclass(frozen=True)
class SeededSession:
    """A session made by the control plane, with the page references of its collective UPO."""

    environment: str
    reference_number: str
    nip: str
    kind: str
    date_created: str
    status: int
    upo_pages: list[str]
    invoices: list[SeededInvoice]

    @property
    def ksef_numbers(self) -> list[str]:
        """The KSeF numbers of the accepted invoices, in order."""
        return [
            invoice.ksef_number
            for invoice in self.invoices
            if invoice.status == 200 and invoice.ksef_number is not None
        ]


@dataclass(frozen=True)
class Call:
    """One call in the log, which came `at` and was `answered_at`.

    `status` and `answered_at` are None where the connection ended without an answer.
    """

    service: str
    environment: str | None
    method: str
    path: str
    query: str
    route: str | None
    at: str
    nip: str | None
    status: int | None
    answered_at: str | None
    retry_after: str | None
    fault: str | None
    page_size: str | None
    has_continuation_token: bool
    error_format: str | None
    user_agent: str | None
    has_bearer: bool


class Control:
    """Steers the sandbox at `url` (its root). Every method may raise ControlError."""

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        self._url = f"{url.rstrip('/')}/_sandbox"
        self._timeout = timeout
        self._http = requests.Session()
        self._http.trust_env = False

    def close(self) -> None:
        """Gives the connection back."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- companies and sessions --------------------------------------------------------------

    def add_token(
        self,
        environment: str,
        nip: str,
        token: str | None = None,
        *,
        outcome: int = 200,
        details: list[str] | None = None,
    ) -> str:
        """Makes `token` (or a fresh one) valid for `nip`; logins with it end in `outcome`."""
        order = {"nip": nip, "token": token, "outcome": outcome, "details": details}
        return str(self._send("POST", f"{environment}/tokens", order)["token"])

    def set_token_outcome(
        self,
        environment: str,
        outcome: int,
        *,
        token: str | None = None,
        nip: str | None = None,
        details: list[str] | None = None,
    ) -> int:
        """Changes how logins end (450 revoked, 480 blocked …, 200 again); how many tokens."""
        order = _given(token=token, nip=nip, outcome=outcome, details=details)
        return int(self._send("PATCH", f"{environment}/tokens", order)["changed"])

    def add_certificate(
        self,
        environment: str,
        nip: str,
        certificate: str | None = None,
        *,
        fingerprint: str | None = None,
        outcome: int = 200,
        details: list[str] | None = None,
    ) -> str:
        """Gives a certificate (PEM, or its SHA-256) rights for `nip`; its fingerprint.

        On `test` a certificate that was not added may log in too, as in KSeF's own TEST.
        """
        order = _given(
            nip=nip,
            certificate=certificate,
            fingerprint=fingerprint,
            outcome=outcome,
            details=details,
        )
        return str(self._send("POST", f"{environment}/certificates", order)["fingerprint"])

    def set_certificate_outcome(
        self,
        environment: str,
        outcome: int,
        *,
        fingerprint: str | None = None,
        nip: str | None = None,
        details: list[str] | None = None,
    ) -> int:
        """Changes how logins end (425, 460 revoked, 415 no rights …); how many certificates."""
        order = _given(fingerprint=fingerprint, nip=nip, outcome=outcome, details=details)
        return int(self._send("PATCH", f"{environment}/certificates", order)["changed"])

    def seed_session(
        self,
        environment: str,
        nip: str,
        *,
        kind: str = "online",
        state: str = "finished",
        invoices: int | list[dict[str, Any]] | None = None,
        reference_number: str | None = None,
        date_created: str | None = None,
        code: int | None = None,
        details: list[str] | None = None,
        finishes_after: float | None = None,
        form_code: str | None = None,
        login_document_hash: str | None = None,
    ) -> SeededSession:
        """Makes a session. `state`: finished, moving, open or failed (with `code`).

        `invoices`: how many accepted ones, or descriptions such as `{"status": 440}` (see
        POST /_sandbox/{env}/sessions). `finishes_after`: seconds until a moving one is final.
        """
        order = _given(
            nip=nip,
            kind=kind,
            state=state,
            invoices=invoices,
            referenceNumber=reference_number,
            dateCreated=date_created,
            code=code,
            details=details,
            finishesAfter=finishes_after,
            formCode=form_code,
            loginDocumentHash=login_document_hash,
        )
        return _session(self._send("POST", f"{environment}/sessions", order))

    def session(self, environment: str, reference_number: str) -> SeededSession:
        """A session as it stands now, also one that a client has opened."""
        return _session(self._send("GET", f"{environment}/sessions/{reference_number}"))

    def session_references(self, environment: str) -> list[str]:
        """The references of all sessions, in the order in which they were made."""
        return list(self._send("GET", f"{environment}/sessions")["sessions"])

    def change_session(
        self,
        environment: str,
        reference_number: str,
        *,
        state: str | None = None,
        code: int | None = None,
        details: list[str] | None = None,
        finishes_after: float | None = None,
    ) -> SeededSession:
        """Finishes or fails a session, or makes it move again."""
        order = _given(state=state, code=code, details=details, finishesAfter=finishes_after)
        path = f"{environment}/sessions/{reference_number}"
        return _session(self._send("PATCH", path, order))

    def remove_session(self, environment: str, reference_number: str) -> None:
        """Makes KSeF forget a session."""
        self._send("DELETE", f"{environment}/sessions/{reference_number}")

    def add_invoices(
        self, environment: str, reference_number: str, invoices: int | list[dict[str, Any]]
    ) -> list[SeededInvoice]:
        """Adds invoices to a session and returns the new ones."""
        path = f"{environment}/sessions/{reference_number}/invoices"
        answer = self._send("POST", path, {"invoices": invoices})
        return [_invoice(invoice) for invoice in answer["invoices"]]

    def change_invoice(
        self, environment: str, reference_number: str, invoice: str | int, **changes: Any
    ) -> SeededInvoice:
        """Changes an invoice (its reference, ordinal or KSeF number): `status=200`, `details=…`."""
        path = f"{environment}/sessions/{reference_number}/invoices/{invoice}"
        return _invoice(self._send("PATCH", path, changes))

    # -- time and settings -------------------------------------------------------------------

    def advance(self, seconds: float) -> str:
        """Moves the sandbox's clock ahead; its new time."""
        return str(self._send("POST", "clock", {"advance": seconds})["now"])

    def freeze(self, frozen: bool = True) -> str:
        """Stops the clock, or lets it run again; its time."""
        return str(self._send("POST", "clock", {"frozen": frozen})["now"])

    def now(self) -> str:
        """The sandbox's time, ISO 8601."""
        return str(self._send("GET", "clock")["now"])

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Changes settings by their camelCase names (`quota=True`, `authPolls=3`); all of them."""
        if changes:
            return self._send("PATCH", "settings", changes)
        return self._send("GET", "settings")

    def reset(self) -> None:
        """Back to the state after start: no session, token, fault, call; the keys stay."""
        self._send("POST", "reset")

    # -- trouble -----------------------------------------------------------------------------

    def fault(
        self,
        kind: str,
        *,
        environment: str | None = None,
        service: str = "api",
        method: str | None = None,
        path: str | None = None,
        times: int | None = 1,
        skip: int = 0,
        **options: Any,
    ) -> int:
        """Spoils the next matching calls (`times` None: all); the fault's id.

        `kind` is one of `sandbox.faults.INSTEAD` and `AFTERWARDS`, `options` are its own, `path`
        a regular expression searched in the path, `service` api, storage, latarnia or any.
        """
        order = _given(environment=environment, service=service, method=method, path=path)
        order |= {"times": times, "skip": skip, "fault": {"kind": kind, **options}}
        return int(self._send("POST", "faults", order)["id"])

    def waiting_faults(self) -> list[dict[str, Any]]:
        """The faults that no call has met yet."""
        return list(self._send("GET", "faults")["faults"])

    def clear_faults(self, fault_id: int | None = None) -> None:
        """Removes one fault, or all."""
        self._send("DELETE", "faults" if fault_id is None else f"faults/{fault_id}")

    def set_api(self, environment: str, *, available: bool, mode: str = "503-html") -> None:
        """Takes an environment's API down, or brings it back.

        `mode`: 503-html, reset, hang, html-200 or waf-403.
        """
        self._send("PUT", f"{environment}/api", {"available": available, "mode": mode})

    def set_latarnia(
        self,
        environment: str,
        status: str | None = None,
        *,
        messages: list[dict[str, Any]] | None = None,
        available: bool = True,
    ) -> list[dict[str, Any]]:
        """Sets Latarnia's status; without `messages` a plausible one comes with an outage."""
        order = _given(status=status, messages=messages, available=available)
        return list(self._send("PUT", f"latarnia/{environment}", order)["messages"])

    def rotate_keys(self, environment: str, *, keep_old: bool = False) -> None:
        """New public keys; the old ones are withdrawn (21470) unless `keep_old`."""
        self._send("POST", f"{environment}/keys/rotate", {"keepOld": keep_old})

    def expire_bearers(
        self, environment: str, *, kind: str | None = None, nip: str | None = None
    ) -> int:
        """Ends issued tokens at once (`kind`: operation, access, refresh); how many."""
        order = _given(kind=kind, nip=nip)
        return int(self._send("POST", f"{environment}/bearers/expire", order)["expired"])

    # -- what happened -----------------------------------------------------------------------

    def calls(self, environment: str | None = None) -> list[Call]:
        """The log of calls, oldest first."""
        answer = self._send("GET", "calls", params=_given(environment=environment))
        return [_call(call) for call in answer["calls"]]

    def call_counts(self, environment: str | None = None) -> dict[str, int]:
        """Calls by method and route: `GET /{environment}/v2/sessions/{reference}` → number."""
        return dict(self._send("GET", "calls", params=_given(environment=environment))["counts"])

    def clear_calls(self) -> None:
        """Empties the log."""
        self._send("DELETE", "calls")

    def signer_certificate(self) -> str:
        """The certificate, PEM, that UPO signatures verify against."""
        return str(self._send("GET", "signer")["certificate"])

    def _send(
        self,
        method: str,
        path: str,
        order: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        answer = self._http.request(
            method, f"{self._url}/{path}", json=order, params=params, timeout=self._timeout
        )
        if answer.status_code >= 300:
            raise ControlError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        content: dict[str, Any] = answer.json() if answer.content else {}
        return content


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _invoice(content: dict[str, Any]) -> SeededInvoice:
    return SeededInvoice(
        ordinal_number=content["ordinalNumber"],
        reference_number=content["referenceNumber"],
        invoice_number=content["invoiceNumber"],
        ksef_number=content["ksefNumber"],
        status=content["status"],
        outcome=content["outcome"],
    )


def _session(content: dict[str, Any]) -> SeededSession:
    return SeededSession(
        environment=content["environment"],
        reference_number=content["referenceNumber"],
        nip=content["nip"],
        kind=content["kind"],
        date_created=content["dateCreated"],
        status=content["status"],
        upo_pages=content["upoPages"],
        invoices=[_invoice(invoice) for invoice in content["invoices"]],
    )


def _call(content: dict[str, Any]) -> Call:
    return Call(
        service=content["service"],
        environment=content["environment"],
        method=content["method"],
        path=content["path"],
        query=content["query"],
        route=content["route"],
        at=content["at"],
        nip=content["nip"],
        status=content["status"],
        answered_at=content["answeredAt"],
        retry_after=content["retryAfter"],
        fault=content["fault"],
        page_size=content["pageSize"],
        has_continuation_token=content["hasContinuationToken"],
        error_format=content["errorFormat"],
        user_agent=content["userAgent"],
        has_bearer=content["hasBearer"],
    )
