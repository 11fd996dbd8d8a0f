"""Which simulations are active: a view says it, and the statements that cannot afford the view."""

from typing import Any

import pytest

from app import errors
from app.db.queries import outages
from app.services.sessions import store
from app.services.upo import archive
from app.services.upo.archive import UpoName
from app.upo.verdict import Verdict
from tests.services.conftest import NIP, Asking

NAME = UpoName("20260915-SO-00000001A1-0000000001-01", ksef_number="1")


def is_refused(account: Any) -> bool:
    """Whether the archived document is withheld because of a simulation."""
    try:
        assert archive.find(account, NAME, "xml")
    except errors.OutageSimulation:
        return True
    return False


@pytest.mark.parametrize("environment", ["test", "prod"])
@pytest.mark.parametrize(
    ("whose", "is_ours"), [(f"'{NIP}'", True), ("NULL", True), ("'5265870047'", False)]
)
@pytest.mark.parametrize(
    ("begins", "ends", "is_now"),
    [("-2", "NULL", True), ("-2", "1", True), ("-2", "-1", False), ("1", "NULL", False)],
)
def test_all_statements_agree_which_simulations_are_active(
    asking: Asking,
    environment: str,
    whose: str,
    is_ours: bool,
    begins: str,
    ends: str,
    is_now: bool,
) -> None:
    account = asking.service.account(NIP, environment)
    archive.put(account, NAME, b"<a/>", Verdict("unsigned"))
    asking.database.execute(
        "ALTER TABLE outage_simulations DROP CONSTRAINT never_production;"
        "INSERT INTO companies (nip, name) VALUES ('5265870047', 'Another');"
        "INSERT INTO outage_simulations (environment, company_nip, message, starts_at, ends_at)"
        f" SELECT '{environment}', {whose}, 'x',"
        f" now() + interval '{begins} hours', now() + {ends} * interval '1 hour'"
    )
    try:
        active = account.db.run(outages.active_simulation, **account.columns) is not None
        assert active == (environment == "test" and is_ours and is_now)
        assert store.look(account, NAME.reference_number, "", []).is_simulated == active
        assert is_refused(account) == active
    finally:
        asking.database.execute(
            "DELETE FROM outage_simulations; ALTER TABLE outage_simulations"
            " ADD CONSTRAINT never_production CHECK (environment <> 'prod')"
        )
