"""A company goes: all of it but its invoice rows; others are not touched, and it may come again."""

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from app import errors
from app.service import Service
from app.services import outages
from app.services.events import webhooks
from app.services.operators import companies, purge, users
from tests.rows import add_offline, add_synced, stored
from tests.service import PASSWORD, Company

NIP, OTHER_NIP = "5265877635", "7812019453"
TABLES = (
    "users",
    "ksef_credentials",
    "ksef_sessions",
    "kept_sessions",
    "kept_invoices",
    "kept_refusals",
    "upos",
    "outage_simulations",
    "followed",
    "followed_sessions",
    "events",
    "webhooks",
)
REVOKE = "DELETE /{environment}/v2/auth/sessions/current"


def counts(database: Any, nip: str) -> dict[str, int]:
    return {
        table: database.execute(f"SELECT count(*) FROM {table} WHERE company_nip = '{nip}'")[0][0]
        for table in TABLES
    }


@pytest.fixture
def busy(
    make_company: Callable[..., Company], control: Any, database: Any, service: Service
) -> dict[str, Company]:
    """Two companies with something in every table, by NIP."""
    made = {}
    for nip in (NIP, OTHER_NIP):
        company = make_company(nip, environments=("test", "demo"))
        session = control.seed_session("test", nip, invoices=2)
        add_synced(database, company.account(), session.ksef_numbers)
        add_offline(database, company.account(), [session.reference_number])
        path = f"/invoices/test/status/{session.reference_number}"
        assert company.get(path).status_code == 200
        assert company.get(f"{path}/{session.ksef_numbers[0]}/upo").status_code == 200
        database.execute(
            f"INSERT INTO kept_refusals VALUES ('{nip}', 'test', 'q', 'c', 'd', '{{}}', 1, now())"
        )
        database.execute(
            "INSERT INTO followed (company_nip, environment, known_since, listed_until, list_at)"
            f" VALUES ('{nip}', 'test', now(), now(), now());"
            "INSERT INTO followed_sessions (company_nip, environment, reference_number,"
            f" date_created, told, found_at) VALUES ('{nip}', 'test', 'S', now(), '{{}}', now())"
        )
        webhooks.add(company.account(), "https://erp.example/events")
        outages.simulate(service.db, "demo", company_nip=nip, message="drill", ends_at=None)
        assert min(counts(database, nip).values()) > 0
        made[nip] = company
    control.clear_calls()
    return made


@pytest.fixture
def run(app: Any) -> Callable[..., Result]:
    return lambda *words, given="": app.test_cli_runner().invoke(
        args=["company", "remove", *words], input=given
    )


def test_everything_goes_but_its_rows_and_their_links(
    busy: dict[str, Company], run: Callable[..., Result], database: Any, control: Any
) -> None:
    rows, others = stored(database), counts(database, OTHER_NIP)
    assert all(row[-2] or row[-1] for row in rows)

    result = run(NIP, "--yes")

    assert result.exit_code == 0, result.output
    for words in ("1 users", "2 credentials", "logged in to test, demo", "3 invoice rows stay"):
        assert words in result.stdout
    assert result.stdout.endswith(f"company {NIP} removed\n")
    assert counts(database, NIP) == dict.fromkeys(TABLES, 0)
    assert counts(database, OTHER_NIP) == others
    assert stored(database) == rows
    assert control.call_counts()[REVOKE] == 2
    assert busy[NIP].get("/auth/test").status_code == 401
    assert busy[OTHER_NIP].get("/auth/test").status_code == 200
    [(who, nip)] = database.execute(
        "SELECT who, company_nip FROM audit WHERE what = 'company_removed'"
    )
    assert (who, nip) == ("operator", NIP)


@pytest.mark.parametrize("typed", [OTHER_NIP, "", "yes"])
def test_another_answer_than_its_nip_removes_nothing(
    busy: dict[str, Company], run: Callable[..., Result], database: Any, control: Any, typed: str
) -> None:
    before = counts(database, NIP)
    assert run(NIP, given=f"{typed}\n").exit_code == 1
    assert counts(database, NIP) == before
    assert control.calls() == []


def test_its_nip_typed_removes_it(
    busy: dict[str, Company], run: Callable[..., Result], database: Any
) -> None:
    assert run(NIP, given=f"{NIP}\n").exit_code == 0
    assert counts(database, NIP) == dict.fromkeys(TABLES, 0)


def test_ksef_that_is_down_does_not_keep_it(
    busy: dict[str, Company], run: Callable[..., Result], database: Any, control: Any
) -> None:
    control.fault("status", status=500, path="/test/v2/auth/sessions/current", times=None)
    result = run(NIP, "--yes")
    assert result.exit_code == 0, result.output
    assert "did not end the session in test" in result.stdout
    assert "in demo" not in result.stdout
    assert counts(database, NIP) == dict.fromkeys(TABLES, 0)


def test_ledger_goes_but_for_what_ksef_still_counts(
    busy: dict[str, Company], database: Any, service: Service
) -> None:
    old = "SELECT count(*) FROM quota_calls WHERE reserved_at < now() - interval '2 hours'"
    database.execute(
        f"INSERT INTO quota_calls (company_nip, environment, quota_group, reserved_at)"
        f" VALUES ('{NIP}', 'test', 'sessionMisc', now() - interval '3 hours')"
    )
    service.account(NIP, "test").calls.block("sessionMisc", 60)
    [(recent,)] = database.execute(f"SELECT count(*) FROM quota_calls WHERE company_nip = '{NIP}'")
    companies.remove(service, NIP)
    assert database.execute(old) == [(0,)]
    assert database.execute(f"SELECT count(*) FROM quota_calls WHERE company_nip = '{NIP}'") >= [
        (recent - 1,)
    ]
    assert database.execute(
        f"SELECT quota_group FROM quota_groups WHERE company_nip = '{NIP}'"
    ) == [("sessionMisc",)]


def test_it_is_gone_for_every_command(
    busy: dict[str, Company], run: Callable[..., Result], service: Service
) -> None:
    companies.remove(service, NIP)
    with pytest.raises(errors.OperatorError, match="no company"):
        users.require_company(service.db, NIP)
    for nip in (NIP, "9542719034"):
        again = run(nip, "--yes")
        assert again.exit_code == 1
        assert "There is no company" in again.output


def test_it_can_be_added_again_with_the_same_user(
    busy: dict[str, Company], service: Service, database: Any
) -> None:
    rows = stored(database)
    companies.remove(service, NIP)
    users.add_company(service.db, NIP, "Nowa nazwa")
    users.add_user(
        service.db,
        service.passwords,
        email=busy[NIP].email,
        nip=NIP,
        role="admin",
        password=PASSWORD,
    )
    answer = busy[NIP].get("/auth/test")
    assert (answer.status_code, answer.json["code"]) == (404, "no_active_ksef_session")
    assert stored(database) == rows
    with pytest.raises(errors.OperatorError, match="exists already"):
        users.add_company(service.db, NIP, "Nowa nazwa")


def test_broken_off_in_the_middle_it_goes_on(
    busy: dict[str, Company], service: Service, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(purge, "delete", broken)
        with pytest.raises(KeyboardInterrupt):
            companies.remove(service, NIP)
    assert busy[NIP].get("/auth/test").status_code == 401
    assert counts(database, NIP)["upos"] == 1
    companies.remove(service, NIP)
    assert counts(database, NIP) == dict.fromkeys(TABLES, 0)
