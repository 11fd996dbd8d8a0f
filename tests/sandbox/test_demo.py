"""The demo of `make run`, made again by a second run on the database of the first."""

import json
import re
from typing import Any

from flask import Flask

from app.api.examples import ANSWERS
from app.service import Service
from app.services.sessions.check import check_session
from sandbox import demo, keys
from sandbox.control import Control
from tests.pages import README
from tests.service import basic

PASSWORD = "Długie hasło 1"


def test_a_session_moves_again_after_a_restart(
    service: Service, control: Control, database: Any
) -> None:
    certificate = keys.make_seal(demo.NIP, demo.NAME)
    account = service.account(demo.NIP, "test")

    def code() -> int:
        return check_session(account, shown.moving.reference_number).session.status.code

    shown = demo.prepare(service, control, database.owner_dsn, PASSWORD, certificate)
    assert code() == 150
    control.advance(61)
    assert code() == 200
    control.reset()  # the sandbox keeps nothing from one run to the next
    shown = demo.prepare(service, control, database.owner_dsn, PASSWORD, certificate)
    assert code() == 150


def test_readme_and_the_contract_show_what_is_answered_for_their_session(
    service: Service, control: Control, database: Any, app: Flask
) -> None:
    certificate = keys.make_seal(demo.NIP, demo.NAME)
    demo.prepare(service, control, database.owner_dsn, PASSWORD, certificate)
    section = README.section("What became of a session")
    [(user, path)] = re.findall(r"^curl -u (\S+):… http://[^/]+(/\S+)$", section, re.MULTILINE)
    [shown] = re.findall(r"^```json\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)

    answer = app.test_client().get(path, headers=basic(user, PASSWORD)).get_json()

    assert answer | {"checkedAt": json.loads(shown)["checkedAt"]} == json.loads(shown)
    assert json.loads(shown) == ANSWERS["finished-session"]
