"""What callers are told about outages of KSeF: real ones, and simulations for rehearsal."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from app import errors, telemetry
from app.db.queries import outages as queries
from app.services import audit, wording
from app.services.audit import What
from app.services.breaker import NO_OUTAGE as NO_OUTAGE
from app.services.breaker import evidence_of, rfc3339, state_of
from app.services.parts import Parts, Place
from app.services.snapshots import database_now

PRODUCTION = "prod"
LONGEST_MESSAGE = 1000
_LAST_MOMENT = datetime(9998, 12, 31, tzinfo=UTC)  # Python can convert it to any time zone


def refuse_if_simulated(parts: Parts, place: Place) -> None:
    """Raise OutageSimulation, with its details, while one is active for this company."""
    if outage := _simulation(parts, place):
        raise errors.OutageSimulation(
            wording.simulation(outage, place.environment, "en"), outage=outage
        )


def current_outage(parts: Parts, place: Place) -> Mapping[str, Any]:
    """The contract's `outage` object for this company: a simulation, else the real state."""
    return _simulation(parts, place) or evidence(parts, place.environment)


def state(parts: Parts, place: Place) -> tuple[str, Mapping[str, Any], datetime | None]:
    """KSeF's state for this company: its name, the evidence, and when KSeF last answered.

    The name is `simulation`, `outage`, `available` or `unknown`. The last answer is None if there
    was none, and may be late by `timing.answer_noted` seconds.
    """
    simulation = _simulation(parts, place)
    with parts.db.transaction() as connection:
        row = queries.known(connection, environment=place.environment)
    answered_at = row.answered_at if row else None
    if simulation:
        return "simulation", simulation, answered_at
    found = state_of(row, parts.timing) if row else "unknown"
    return found, evidence_of(row, parts.timing), answered_at


def evidence(parts: Parts, environment: str) -> Mapping[str, Any]:
    """The contract's `outage` object for the real state, as stored; KSeF is not asked."""
    row = parts.db.run(queries.known, environment=environment)
    return evidence_of(row, parts.timing)


def simulate(
    parts: Parts,
    environment: str,
    *,
    company_nip: str | None,
    message: str,
    ends_at: datetime | None,
) -> Mapping[str, Any]:
    """Begin or change a simulation for one company, or for all if `company_nip` is None.

    Without `ends_at` it lasts until it is cleared. Returns the contract's `outage` object; raises
    SimulationForbidden for production, and InvalidParameter if message or end cannot be accepted.
    """
    refuse_production(environment)
    _refuse_wrong(
        message=wrong_message(message), endsAt=_wrong_end_now(parts, ends_at) if ends_at else None
    )
    with parts.db.transaction() as connection:
        row = queries.simulate(
            connection,
            environment=environment,
            company_nip=company_nip,
            message=message,
            ends_at=ends_at,
        )
        audit.note(
            connection,
            What.SIMULATION_STARTED,
            company_nip=company_nip,
            environment=environment,
            detail=message,
        )
    return _simulated(row)


def wrong_message(message: str) -> str | None:
    """Why a text cannot be a simulation's message, in a sentence; None where it can.

    PostgreSQL takes neither NUL nor halves of surrogate pairs, which commands and JSON may bring.
    """
    if len(message) > LONGEST_MESSAGE:
        return f"Longer than {LONGEST_MESSAGE} characters."
    if not message.strip():
        return "Must not be blank."
    if "\0" in message or any("\ud800" <= character <= "\udfff" for character in message):
        return "Contains characters that cannot be stored."
    return None


def wrong_end(ends_at: datetime) -> str | None:
    """Why a simulation can never end at a moment, in a sentence; None where it can."""
    return "Is too far in the future." if ends_at > _LAST_MOMENT else None


def _wrong_end_now(parts: Parts, ends_at: datetime) -> str | None:
    has_passed = ends_at <= database_now(parts)
    return "Has passed." if has_passed else wrong_end(ends_at)


def clear(parts: Parts, environment: str, *, company_nip: str) -> None:
    """End the company's own simulation, if any; one for all companies is ended by `clear_all`.

    Raises SimulationForbidden for production.
    """
    refuse_production(environment)
    with parts.db.transaction() as connection:
        where = {"environment": environment, "company_nip": company_nip}
        if queries.clear_simulation(connection, **where):
            audit.note(connection, What.SIMULATION_ENDED, **where)


def clear_all(parts: Parts, environment: str) -> int:
    """End every simulation of an environment. Returns how many there were."""
    with parts.db.transaction() as connection:
        ended: int = queries.clear_simulations(connection, environment=environment)
        if ended:
            audit.note(
                connection, What.SIMULATION_ENDED, environment=environment, detail=str(ended)
            )
    return ended


def public_state(parts: Parts, environments: Iterable[str]) -> dict[str, str]:
    """The public state by environment: `simulation` if one holds for all companies, else KSeF's."""
    with parts.db.transaction() as connection:
        simulated = {row.environment for row in queries.simulated_environments(connection)}
        known = {row.environment: row for row in queries.all_known(connection)}
    return {
        name: "simulation"
        if name in simulated
        else state_of(known[name], parts.timing)
        if name in known
        else "unknown"
        for name in environments
    }


def report_forbidden(parts: Parts) -> None:
    """Warn in the log if the table holds a simulation of production, which is always ignored."""
    try:
        with parts.db.transaction() as connection:
            forbidden = queries.forbidden_simulations(connection)
    except errors.Unavailable:
        return
    if forbidden:
        telemetry.warning("a simulation of prod in outage_simulations is ignored")


def refuse_production(environment: str) -> None:
    """SimulationForbidden for production."""
    if environment == PRODUCTION:
        raise errors.SimulationForbidden("An outage of prod cannot be simulated.")


def _refuse_wrong(**said: str | None) -> None:
    wrong = {name: [sentence] for name, sentence in said.items() if sentence}
    if wrong:
        raise errors.InvalidParameter(f"Invalid: {', '.join(wrong)}.", errors=wrong)


def _simulation(parts: Parts, place: Place) -> Mapping[str, Any] | None:
    if place.environment == PRODUCTION:
        return None
    row = parts.db.run(queries.active_simulation, **place.columns)
    return _simulated(row) if row else None


def _simulated(row: Any) -> Mapping[str, Any]:
    since = rfc3339(row.starts_at)
    return {
        **NO_OUTAGE,
        "established": True,
        "since": since,
        "source": "simulation",
        "messages": [
            {
                "title": "Simulated outage",
                "text": row.message,
                "start": since,
                "end": rfc3339(row.ends_at),
                "category": "FAILURE",
            }
        ],
    }
