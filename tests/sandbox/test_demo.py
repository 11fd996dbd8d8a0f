"""The demo of `make run`, made again by a second run on the database of the first."""

from typing import Any

from app.service import Service
from app.services.sessions.check import check_session
from sandbox import demo, keys
from sandbox.control import Control


def test_a_session_moves_again_after_a_restart(
    service: Service, control: Control, database: Any
) -> None:
    certificate = keys.make_seal(demo.NIP, demo.NAME)
    account = service.account(demo.NIP, "test")

    def code() -> int:
        return check_session(account, shown.moving.reference_number).session.status.code

    shown = demo.prepare(service, control, database.owner_dsn, "Długie hasło 1", certificate)
    assert code() == 150
    control.advance(61)
    assert code() == 200
    control.reset()  # the sandbox keeps nothing from one run to the next
    shown = demo.prepare(service, control, database.owner_dsn, "Długie hasło 1", certificate)
    assert code() == 150
