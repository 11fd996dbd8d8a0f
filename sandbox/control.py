"""A client of the control plane, for tests, `make run` and benchmarks."""

from contextlib import AbstractContextManager
from typing import Any

import msgspec
import requests

from sandbox import orders
from sandbox.faults import Fault
from sandbox.orders import Call, SeededInvoice, SeededSession

__all__ = ["Call", "Control", "ControlError", "SeededInvoice", "SeededSession"]


class ControlError(Exception):
    """The control plane refused an order; the message says why."""


class Control(AbstractContextManager["Control"]):
    """Steers the sandbox at `url` (its root). Every method may raise ControlError.

    Keyword arguments that a method passes on are the fields of the order in `sandbox.orders`.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        self._url = f"{url.rstrip('/')}/_sandbox"
        self._timeout = timeout
        self._http = requests.Session()
        self._http.trust_env = False

    def close(self) -> None:
        """Gives the connection back."""
        self._http.close()

    def __exit__(self, *_error: object) -> None:
        self.close()

    def add_token(
        self, environment: str, nip: str, token: str | None = None, **options: Any
    ) -> str:
        """Makes `token` (or a fresh one) valid for `nip`; `CredentialOrder` has the options."""
        order = orders.CredentialOrder(nip=nip, token=token, **options)
        return str(self._send("POST", f"{environment}/tokens", order)["token"])

    def set_token_outcome(self, environment: str, outcome: int, **which: Any) -> int:
        """Changes how logins with a `token`, or with all of a `nip`, end; how many tokens.

        `outcome`: 450 revoked, 480 blocked, 200 accepted again, and others of KSeF's.
        """
        order = orders.CredentialChange(outcome=outcome, **which)
        return int(self._send("PATCH", f"{environment}/tokens", order)["changed"])

    def add_certificate(
        self, environment: str, nip: str, certificate: str | None = None, **options: Any
    ) -> str:
        """Gives a certificate (PEM, or its SHA-256 as `fingerprint`) rights for `nip`.

        Returns the fingerprint. On `test` a certificate that was not added may log in too, as in
        KSeF's own TEST.
        """
        order = orders.CredentialOrder(nip=nip, certificate=certificate, **options)
        return str(self._send("POST", f"{environment}/certificates", order)["fingerprint"])

    def set_certificate_outcome(self, environment: str, outcome: int, **which: Any) -> int:
        """Changes how logins with a `fingerprint`, a `nip` or both end; how many certificates.

        `outcome`: 425 or 460 revoked, 415 no rights, 200 accepted again.
        """
        order = orders.CredentialChange(outcome=outcome, **which)
        return int(self._send("PATCH", f"{environment}/certificates", order)["changed"])

    def seed_session(self, environment: str, nip: str, **options: Any) -> SeededSession:
        """Makes a session: `SessionOrder` has the options."""
        order = orders.SessionOrder(nip=nip, **options)
        return _session(self._send("POST", f"{environment}/sessions", order))

    def session(self, environment: str, reference_number: str) -> SeededSession:
        """A session as it stands now, also one that a client has opened."""
        return _session(self._send("GET", f"{environment}/sessions/{reference_number}"))

    def session_references(self, environment: str) -> list[str]:
        """The references of all sessions, in the order in which they were made."""
        return list(self._send("GET", f"{environment}/sessions")["sessions"])

    def change_session(
        self, environment: str, reference_number: str, **changes: Any
    ) -> SeededSession:
        """Finishes or fails a session, or makes it move again: see `SessionChange`."""
        path = f"{environment}/sessions/{reference_number}"
        return _session(self._send("PATCH", path, orders.SessionChange(**changes)))

    def remove_session(self, environment: str, reference_number: str) -> None:
        """Makes KSeF forget a session."""
        self._send("DELETE", f"{environment}/sessions/{reference_number}")

    def add_invoices(
        self, environment: str, reference_number: str, invoices: int | list[dict[str, Any]]
    ) -> list[SeededInvoice]:
        """Adds invoices to a session and returns the new ones."""
        path = f"{environment}/sessions/{reference_number}/invoices"
        answer = self._send("POST", path, {"invoices": invoices})
        return msgspec.convert(answer["invoices"], list[SeededInvoice])

    def change_invoice(
        self, environment: str, reference_number: str, invoice: str | int, **changes: Any
    ) -> SeededInvoice:
        """Changes an invoice (its reference, ordinal or KSeF number): `status=200`, `details=…`."""
        path = f"{environment}/sessions/{reference_number}/invoices/{invoice}"
        return msgspec.convert(self._send("PATCH", path, changes), SeededInvoice)

    def advance(self, seconds: float) -> str:
        """Moves the sandbox's clock ahead; its new time."""
        return str(self._send("POST", "clock", orders.ClockOrder(advance=seconds))["now"])

    def freeze(self, frozen: bool = True) -> str:
        """Stops the clock, or lets it run again; its time."""
        return str(self._send("POST", "clock", orders.ClockOrder(frozen=frozen))["now"])

    def now(self) -> str:
        """The sandbox's time, ISO 8601."""
        return str(self._send("GET", "clock")["now"])

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Changes settings by their camelCase names (`quota=True`, `authPolls=3`); all of them."""
        content: dict[str, Any] = self._send("PATCH", "settings", changes)
        return content

    def reset(self) -> None:
        """Back to the state after start: no session, token, fault, call; the keys stay."""
        self._send("POST", "reset")

    def fault(self, kind: str, **options: Any) -> int:
        """Spoils the next matching calls; the fault's id.

        `kind` is one of `sandbox.fault_answers`. `options` are its own, and those of `Fault` that
        say which calls it is for: `environment`, `service`, `method`, `path`, `times`, `skip`.
        """
        which = {name: options.pop(name) for name in Fault.__struct_fields__ if name in options}
        return int(
            self._send("POST", "faults", Fault(fault={"kind": kind, **options}, **which))["id"]
        )

    def waiting_faults(self) -> list[dict[str, Any]]:
        """The faults that no call has met yet."""
        return list(self._send("GET", "faults")["faults"])

    def clear_faults(self, fault_id: int | None = None) -> None:
        """Removes one fault, or all."""
        self._send("DELETE", "faults" if fault_id is None else f"faults/{fault_id}")

    def set_api(self, environment: str, *, available: bool, **options: Any) -> None:
        """Takes an environment's API down (`mode` says how), or brings it back."""
        self._send("PUT", f"{environment}/api", orders.ApiOrder(available=available, **options))

    def set_latarnia(
        self, environment: str, status: str | None = None, **options: Any
    ) -> list[dict[str, Any]]:
        """Sets Latarnia's status; without `messages` a plausible one comes with an outage.

        Returns the messages; `available=False` takes Latarnia itself down.
        """
        order = orders.LatarniaOrder(status=status, **options)
        return list(self._send("PUT", f"latarnia/{environment}", order)["messages"])

    def rotate_keys(self, environment: str, *, keep_old: bool = False) -> None:
        """New public keys; the old ones are withdrawn (21470) unless `keep_old`."""
        self._send("POST", f"{environment}/keys/rotate", orders.KeysOrder(keep_old=keep_old))

    def expire_bearers(self, environment: str, **which: Any) -> int:
        """Ends issued tokens at once (`kind`: operation, access, refresh; `nip`); how many."""
        path = f"{environment}/bearers/expire"
        return int(self._send("POST", path, orders.BearersOrder(**which))["expired"])

    def calls(self, environment: str | None = None) -> list[Call]:
        """The log of calls, oldest first."""
        answer = self._send("GET", "calls", environment=environment)
        return msgspec.convert(answer["calls"], list[Call])

    def call_counts(self, environment: str | None = None) -> dict[str, int]:
        """Calls by method and route: `GET /{environment}/v2/sessions/{reference}` → number."""
        return dict(self._send("GET", "calls", environment=environment)["counts"])

    def clear_calls(self) -> None:
        """Empties the log."""
        self._send("DELETE", "calls")

    def signers(self, environment: str) -> list[str]:
        """The SHA-256 of the certificates that UPOs are signed with, oldest first."""
        answer = self._send("GET", f"{environment}/signers")
        return [signer["sha256"] for signer in answer["signers"]]

    def signer_certificates(self, environment: str) -> list[str]:
        """These certificates, PEM; the first one signs until `rotate_signers`."""
        answer = self._send("GET", f"{environment}/signers")
        return [signer["certificate"] for signer in answer["signers"]]

    def rotate_signers(self, environment: str) -> str:
        """Lets a new one sign from now on; its certificate's SHA-256."""
        answer = self._send("POST", f"{environment}/signers/rotate")
        return str(answer["signers"][-1]["sha256"])

    def _send(
        self,
        method: str,
        path: str,
        order: orders.Order | dict[str, Any] | None = None,
        **query: Any,
    ) -> Any:
        body = None if order is None else msgspec.json.encode(order)
        answer = self._http.request(
            method, f"{self._url}/{path}", data=body, params=query, timeout=self._timeout
        )
        if answer.status_code >= 300:
            raise ControlError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return msgspec.json.decode(answer.content) if answer.content else None


def _session(content: Any) -> SeededSession:
    return msgspec.convert(content, SeededSession)
