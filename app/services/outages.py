"""What callers are told about outages of KSeF: real ones, and simulations for rehearsal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from app import errors, telemetry
from app.account import Account
from app.db.pool import Database
from app.db.queries import outages as queries
from app.ksef import latarnia
from app.ksef.latarnia import Event, Reading
from app.services.operators import audit
from app.services.operators.audit import What
from app.settings import Timing

PRODUCTION = "prod"
LONGEST_MESSAGE = 1000
_LAST_MOMENT = datetime(9998, 12, 31, tzinfo=UTC)  # Python can convert it to any time zone
# By when offline invoices must be sent to KSeF, the strictest deadline first.
_DUTIES = {
    latarnia.MAINTENANCE: "next_working_day_after_end",
    latarnia.FAILURE: "seven_working_days_after_end",
    latarnia.TOTAL_FAILURE: "none",
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of an outage: the contract's `outage` object.

    `since`: its begin, or that of the failed calls while it is not `established`. `source`:
    simulation, latarnia or breaker. `duty`: by when offline invoices must be sent, where Latarnia
    says so. `messages`: what is said of the present moment, while calls fail. Once KSeF answers,
    that is no evidence any more: it is told as `announcements`.
    """

    established: bool = False
    since: datetime | None = None
    consecutive_failures: int = 0
    source: str | None = None
    messages: Sequence[Event] = ()
    duty: str | None = None
    announcements: Sequence[Event] = ()


@dataclass(frozen=True, slots=True)
class State:
    """KSeF's state for a company: `simulation`, `outage`, `available` or `unknown`.

    `answered_at`: when KSeF last answered; None: never; may be late by `timing.answer_noted`.
    """

    name: str
    evidence: Evidence
    answered_at: datetime | None


def refuse_if_simulated(account: Account) -> None:
    """Raise OutageSimulation, with its details, while one is active for this company."""
    if account.environment != PRODUCTION:
        simulation = account.db.run(queries.active_simulation, **account.columns)
        if simulation is not None:
            raise errors.OutageSimulation(
                "An outage of KSeF is being simulated.", outage=_simulated(simulation)
            )


def current(account: Account) -> Evidence:
    """What is known for this company: a simulation, else the real state."""
    return state(account).evidence


def state(account: Account) -> State:
    """KSeF's state for this company, as stored; KSeF is not asked."""
    with account.db.transaction() as connection:
        simulation = None
        if account.environment != PRODUCTION:
            simulation = queries.active_simulation(connection, **account.columns)
        row = queries.known(connection, environment=account.environment)
    answered_at = row.answered_at if row else None
    if simulation:
        return State("simulation", _simulated(simulation), answered_at)
    return State(_name(row, account.timing), of_row(row, account.timing), answered_at)


def evidence(db: Database, timing: Timing, environment: str) -> Evidence:
    """What is known of a real outage, as stored; KSeF is not asked."""
    return of_row(db.run(queries.known, environment=environment), timing)


def simulate(
    db: Database,
    environment: str,
    *,
    company_nip: str | None,
    message: str,
    ends_at: datetime | None,
) -> Evidence:
    """Begin or change a simulation for one company, or for all if `company_nip` is None.

    Without `ends_at` it lasts until it is cleared. Raises SimulationForbidden for production, and
    InvalidParameter if message or end cannot be accepted.
    """
    refuse_production(environment)
    has_passed = ends_at is not None and ends_at <= db.now()
    said = {
        "message": wrong_message(message),
        "endsAt": "Has passed." if has_passed else ends_at and wrong_end(ends_at),
    }
    if wrong := {name: [sentence] for name, sentence in said.items() if sentence}:
        raise errors.InvalidParameter(f"Invalid: {', '.join(wrong)}.", errors=wrong)
    with db.transaction() as connection:
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


def clear(db: Database, environment: str, *, company_nip: str) -> None:
    """End the company's own simulation, if any; one for all companies is ended by `clear_all`.

    Raises SimulationForbidden for production.
    """
    refuse_production(environment)
    with db.transaction() as connection:
        where = {"environment": environment, "company_nip": company_nip}
        if queries.clear_simulation(connection, **where):
            audit.note(connection, What.SIMULATION_ENDED, **where)


def clear_all(db: Database, environment: str) -> int:
    """End every simulation of an environment. Returns how many there were."""
    with db.transaction() as connection:
        ended: int = queries.clear_simulations(connection, environment=environment)
        if ended:
            audit.note(
                connection, What.SIMULATION_ENDED, environment=environment, detail=str(ended)
            )
    return ended


def public_state(db: Database, timing: Timing, environments: Iterable[str]) -> dict[str, str]:
    """The public state by environment: `simulation` if one holds for all companies, else KSeF's."""
    with db.transaction() as connection:
        simulated = {row.environment for row in queries.simulated_environments(connection)}
        known = {row.environment: row for row in queries.all_known(connection)}
    return {
        name: "simulation" if name in simulated else _name(known.get(name), timing)
        for name in environments
    }


def report_forbidden(db: Database) -> None:
    """Warn in the log if the table holds a simulation of production, which is always ignored."""
    if db.run(queries.forbidden_simulations):
        telemetry.warning("a simulation of prod in outage_simulations is ignored")


def refuse_production(environment: str) -> None:
    """SimulationForbidden for production."""
    if environment == PRODUCTION:
        raise errors.SimulationForbidden("An outage of prod cannot be simulated.")


def _name(row: Any, timing: Timing) -> str:
    """`outage`, `available` (KSeF answered the last call, not long ago) or `unknown`."""
    if of_row(row, timing).established:
        return "outage"
    if row is None or row.consecutive_failures > 0 or row.answered_at is None:
        return "unknown"
    lately = row.now - timedelta(seconds=timing.available_for)
    return "available" if row.answered_at >= lately else "unknown"


def of_row(row: Any, timing: Timing) -> Evidence:
    """The evidence in a row of `outages`; None: no call was made yet."""
    if row is None:
        return Evidence()
    reading = _fresh_reading(row, timing)
    events = [event for event in reading.events if event.covers(row.now)] if reading else []
    failing = row.consecutive_failures > 0
    announced = failing and bool(events) and reading is not None and reading.is_outage
    return Evidence(
        established=announced or row.opened_at is not None,
        since=min(event.start for event in events) if announced else row.failing_since,
        consecutive_failures=row.consecutive_failures,
        source="latarnia" if announced else "breaker" if row.opened_at is not None else None,
        messages=events if failing else [],
        duty=_duty(reading, events) if announced and reading else None,
        announcements=[] if failing else events,
    )


def _fresh_reading(row: Any, timing: Timing) -> Reading | None:
    if row.latarnia_read_at is None:
        return None
    if row.latarnia_read_at < row.now - timedelta(seconds=timing.latarnia_kept):
        return None
    return latarnia.understood(row.latarnia)


def _duty(reading: Reading, events: list[Event]) -> str:
    """The duty for Latarnia's status if an event confirms it, else the strictest of the events."""
    categories = {event.category for event in events}
    if reading.status in categories:
        return _DUTIES[reading.status]
    return next(duty for category, duty in _DUTIES.items() if category in categories)


def _simulated(row: Any) -> Evidence:
    event = Event("FAILURE", "Simulated outage", row.message, row.starts_at, row.ends_at)
    return Evidence(established=True, since=row.starts_at, source="simulation", messages=[event])
