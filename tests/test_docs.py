"""What the pages name is there, and what is there stands in the pages.

Metrics: tests/test_monitoring.py. Rights in the database: tests/db/test_grants.py. What the
examples do: tests/journeys/test_examples.py, test_recovery.py, test_make_run.py.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import pytest
import yaml

from app import errors, settings
from app.__main__ import ksef_proxy
from app.api import wording
from app.api.openapi import ELSEWHERE
from app.ksef import login
from app.ksef.login import REFUSED, remedy
from app.services.login.credentials import BLOCKED
from app.services.operators.audit import What
from sandbox import app as sandbox_app
from sandbox import fault_answers, orders, state
from sandbox.sessions import INVOICE_WORDS, SESSION_WORDS
from sandbox.settings import Settings
from sandbox.world import World
from tests import contract
from tests.api.test_policy import ERRORS, commands, setting_names
from tests.pages import (
    ANSWERS,
    DOCS,
    ERP,
    EXAMPLES,
    OPERATORS,
    PROJECT,
    README,
    SANDBOX,
    Page,
    spans,
)
from tests.pages import PAGES as OTHER_PAGES

PAGES = (*OTHER_PAGES, Page(DOCS / "measurements.md"))


class TestPages:
    def test_all_are_looked_at(self) -> None:
        there = {*PROJECT.glob("*.md"), *DOCS.rglob("*.md")} - {PROJECT / "CHANGELOG.md"}
        assert {page.path for page in PAGES} == there

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.path.relative_to(PROJECT)))
    def test_links_lead_somewhere(self, page: Page) -> None:
        known = {other.path: other for other in PAGES}
        for target in page.targets:
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            file = (page.path.parent / name).resolve() if name else page.path
            assert file.exists(), target
            assert not anchor or anchor in known[file].anchors, target

    def test_every_page_is_linked_from_the_front_door(self) -> None:
        assert {page.path for page in PAGES if page.path.parent == DOCS} <= README.leads_to

    def test_every_other_page_is_linked_from_one_of_those(self) -> None:
        linked = set().union(*(page.leads_to for page in PAGES if page.path.parent == DOCS))
        assert {page.path for page in PAGES if page is not README} <= linked | README.leads_to

    def test_the_front_door_is_short(self) -> None:
        assert len(README.text.splitlines()) <= 250

    def test_examples_are_the_files_that_are_tried(self) -> None:
        shown = {}
        for page in PAGES:
            found = re.findall(
                r"^<!-- examples/(\S+) -->\n```\w+\n(.*?)^```$",
                page.text,
                re.MULTILINE | re.DOTALL,
            )
            shown |= dict(found)
        assert shown == {file.name: file.read_text("utf-8") for file in EXAMPLES.iterdir()}


class TestSettings:
    def test_each_stands_in_the_table_and_no_other(self) -> None:
        names = setting_names()
        assert "DATABASE_URL" in names
        assert {name for row in OPERATORS.rows("Settings") for name in spans(row[0])} == names

    def test_defaults_are_those_of_the_service(self) -> None:
        """Where the table has them word by word; a default in words is for what is too long."""
        told = {}
        for names, defaults, *_ in OPERATORS.rows("Settings"):
            told |= dict(zip(spans(names), spans(defaults), strict=False))
        known = {
            one.name: one.default
            for one in settings.variables()
            if one.default and not one.name.startswith(("KSEF_URL", "LATARNIA", "UPO_SIGNERS"))
        }
        assert told == known

    def test_required_ones_are_called_so(self) -> None:
        required = {one.name for one in settings.variables() if one.required}
        rows = [row for row in OPERATORS.rows("Settings") if row[1] == "required"]
        assert {name for row in rows for name in spans(row[0])} == required

    def test_pages_name_no_other(self) -> None:
        named = {
            name
            for page in PAGES
            for text in page.names
            for name in re.findall(r"\b(?:KSEF|LATARNIA|WEB|DATABASE|SECRET|LOG)_[A-Z_]+\b", text)
        }
        assert named - setting_names() <= {"KSEF_OPENAPI"}


class TestCommands:
    def test_each_stands_in_the_table_with_its_options(self) -> None:
        rows = [span for row in OPERATORS.rows("Commands") for span in spans(row[0])]
        found = dict(commands(ksef_proxy))
        assert "user add" in found
        for words, command in found.items():
            [row] = [row for row in rows if re.match(rf"{words}(?: (?![a-z])|$)", row)]
            told = set(re.findall(r"(?<!\w)--?[a-z-]+", row))
            options = [option for option in command.params if isinstance(option, click.Option)]
            assert all(told & set(option.opts) for option in options), words
            assert told <= {name for option in options for name in option.opts}, words
            assert command.help, words
        assert len(rows) == len(found)

    def test_lines_with_commands_are_such_as_there_are(self) -> None:
        lines = [
            line.split("#")[0].split("<")[0]
            for page in PAGES
            for block in page.fences
            for line in re.findall(r"\bksef-proxy (?:--env-file \S+ )*([a-z].*)$", block, re.M)
        ]
        assert len(lines) > 10
        found = dict(commands(ksef_proxy))
        for line in lines:
            [command] = [
                known for words, known in found.items() if f"{line} ".startswith(f"{words} ")
            ]
            names = {name for param in command.params for name in param.opts}
            assert set(re.findall(r"--[a-z-]+", line)) <= names, line

    def test_lines_with_make_are_such_as_there_are(self) -> None:
        targets = set(re.findall(r"^([\w./-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
        named = {
            name
            for page in PAGES
            for name in re.findall(r"(?:^|`)make ([a-z.][\w./-]*)", page.text, re.M)
        }
        assert {"run", "test", "serve"} <= named <= targets


class TestFrontDoor:
    def test_each_path_of_the_contract_stands_in_the_table_of_all_calls(self) -> None:
        told = {
            path
            for row in README.rows("All calls")
            for span in spans(row[0])
            for path in re.findall(r"/[^?\s]*", span)
        }
        assert {*contract.document()["paths"]} <= told


class TestAnswers:
    def test_each_error_stands_there_with_its_status_and_no_other(self) -> None:
        told = {
            code: row[0]
            for row in ANSWERS.rows("Errors")
            if len(row) == 3 and row[0][0] in "45" and row[1].startswith("`")
            for code in spans(row[1])
        }
        assert set(told) == {*ERRORS, *ELSEWHERE}
        assert {code for code, status in ERRORS.items() if str(status) not in told[code]} == set()

    @staticmethod
    def codes(title: str) -> set[int]:
        """The numbers in the first column."""
        return {int(code) for row in ANSWERS.rows(title) for code in re.findall(r"\d{3}", row[0])}

    SESSION = "What became of the session: `status.code`"
    INVOICE = "What became of an invoice: `invoices[].status.code`"
    LOGIN = "When KSeF refuses the login"

    def test_the_sandbox_has_no_code_that_is_not_explained(self) -> None:
        assert set().union(*SESSION_WORDS.values()) <= self.codes(self.SESSION)
        assert {*INVOICE_WORDS} <= self.codes(self.INVOICE)

    @pytest.mark.skipif("KSEF_OPENAPI" not in os.environ, reason="needs the official contract")
    def test_all_of_ksef_s_codes_are_explained(self) -> None:
        schemas = json.loads(Path(os.environ["KSEF_OPENAPI"]).read_text("utf-8"))["components"][
            "schemas"
        ]

        def published(schema: str) -> set[int]:
            text = schemas[schema]["properties"]["status"]["description"]
            return {int(code) for code in re.findall(r"^\| (\d{3}) \|", text, re.MULTILINE)}

        assert self.codes(self.SESSION) == published("SessionStatusResponse")
        assert self.codes(self.INVOICE) == published("SessionInvoiceStatusResponse")
        assert self.codes(self.LOGIN) == published("AuthenticationOperationStatusResponse") - {
            100,
            200,
        }

    def test_what_helps_against_a_refused_login_is_told_for_each_code(self) -> None:
        told = {
            int(code): advice
            for codes, _, advice in ANSWERS.rows("When KSeF refuses the login")
            for code in codes.split(", ")
        }
        assert set(told) == REFUSED | {500, 550}
        assert set(wording.REMEDIES) == REFUSED
        asked_again = ANSWERS.section("When KSeF refuses the login").split("After ")[1]
        pausing = re.findall(r"[45]\d\d", asked_again.split("for a minute")[0])
        assert set(map(int, pausing)) == REFUSED - {BLOCKED}

    def test_what_helps_is_told_as_in_the_problem(self) -> None:
        for codes, _, advice in ANSWERS.rows(self.LOGIN):
            for code in map(int, codes.split(", ")):
                sentence = remedy(code).strip().rstrip(".").lower()
                assert advice.replace("`", "").lower().startswith(sentence.replace("`", "")), code

    def test_each_failure_that_lasts_is_told(self) -> None:
        rows = ANSWERS.rows("Where asking again is in vain")
        told = [
            (name, set(map(int, re.findall(r"\b\d{3,5}\b", rest))))
            for row in rows
            for name, rest in re.findall(r"^`(\w+)`(.*)$", row[0])
        ]
        by_name = {
            name: set().union(*(some for one, some in told if one == name))
            for name in ("httpStatus", "code")
        }
        assert by_name["httpStatus"] == errors.LASTING_STATUSES
        assert by_name["code"] == errors.LASTING_CODES | login._CERTIFICATE_REFUSED

    def test_each_duty_is_told_as_in_the_problem(self) -> None:
        rows = ANSWERS.rows("By when offline invoices must be sent")
        told = {spans(duty)[0]: when.split(";")[0] for duty, _, when in rows}
        sentences = {duty or "null": text for duty, text in wording._DUTIES["en"].items()}
        assert set(told) == set(sentences)
        assert {duty for duty, when in told.items() if when not in sentences[duty]} == set()

    @pytest.mark.parametrize(
        ("sentence", "numbers"),
        [
            ("nextCheckAfter` is how long the answer stays fresh", ("fresh_least", "fresh_most")),
            ("grows to an hour", {"unfit_most": 3600}),
            ("begun within the last 30 days", {"completed_within": 30 * 86400}),
            ("to connect", ("ksef_connect", "ksef_call", "request")),
            ("is not asked again for a minute", {"refused_pause": 60}),
            ("at most once a minute for all replicas", {"latarnia_every": 60, "latarnia": 2}),
            ("its answer is used for at most ten minutes", {"latarnia_kept": 600}),
            ("at least five such failures in a row, over at least", ("outage_after",)),
            ("one of all replicas tries to fetch", ("outage_probe_every",)),
            ("nothing is sent to that environment for", ("outage_pause",)),
            ("answered the last call, within the last ten minutes", {"available_for": 600}),
        ],
    )
    def test_durations_are_those_of_the_service(self, sentence: str, numbers: Any) -> None:
        """Those in seconds are read from the sentence; those in words are given here."""
        timing = settings.Timing()
        text = " ".join(ANSWERS.text.split())
        assert text.count(sentence) == 1
        if isinstance(numbers, dict):
            assert {name: getattr(timing, name) for name in numbers} == numbers
            return
        begin = max(text.rfind(end, 0, text.index(sentence)) for end in (". ", ": ", "| "))
        told = re.findall(r"(\d+) s\b", re.split(r"\. [A-Z]| \|", text[begin + 1 :], maxsplit=1)[0])
        assert [float(number) for number in told] == [getattr(timing, name) for name in numbers]


class TestErp:
    def test_tables_are_those_that_there_are(self, database: Any) -> None:
        for table in ("synced_invoices", "offline_invoices"):
            [shown] = re.findall(rf"^CREATE TABLE {table} \(.*?\n(.*?)^\);", ERP.text, re.M | re.S)
            columns = re.findall(r"^    ([a-z_]+) +([a-z_]+)( .*NOT NULL| GENERATED)?", shown, re.M)
            there = database.execute(
                "SELECT attname, format_type(atttypid, NULL), attnotnull FROM pg_attribute"
                f" WHERE attrelid = '{table}'::regclass AND attnum > 0 ORDER BY attnum"
            )
            short = {"timestamp with time zone": "timestamptz"}
            assert [(name, kind, bool(rest)) for name, kind, rest in columns] == [
                (name, short.get(kind, kind), required) for name, kind, required in there
            ]


class TestOperators:
    def test_each_alert_is_explained_and_no_other(self) -> None:
        [group] = yaml.safe_load((PROJECT / "deploy/prometheus/alerts.yml").read_text())["groups"]
        told = {spans(row[0])[0]: row[1] for row in OPERATORS.rows("Watching") if len(row) == 4}
        assert told == {rule["alert"]: rule["labels"]["severity"] for rule in group["rules"]}

    def test_each_act_of_the_audit_is_explained(self) -> None:
        rows = OPERATORS.rows("What is kept, and for how long")
        assert {name for row in rows for name in spans(row[0])} == {act.value for act in What}

    def test_each_table_is_part_of_the_plan_for_its_loss(self, database: Any) -> None:
        tables = database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        told = [name for row in OPERATORS.rows("Backup and restore") for name in spans(row[0])]
        assert sorted(told) == sorted(name for (name,) in tables)


class TestSandbox:
    def test_options_are_those_that_there_are(self) -> None:
        command = [sys.executable, "-m", "sandbox", "--help"]
        usage = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        options = set(re.findall(r"^  (--[a-z]+)", usage.stdout, re.MULTILINE))
        head = SANDBOX.text.split("## What it stands in for")[0]
        assert set(re.findall(r"^\| `(--[a-z]+)", head, re.MULTILINE)) == options

    def test_faults_are_those_that_there_are(self) -> None:
        instead, afterwards = SANDBOX.section("Faults").split("The true answer, spoilt")
        for text, known in (
            (instead, fault_answers.INSTEAD),
            (afterwards, fault_answers.AFTERWARDS),
        ):
            cells = re.findall(r"^\| (`[^|]*) \|", text.split("|---|---|---|")[1], re.MULTILINE)
            assert {name for cell in cells for name in spans(cell)} == known

    def test_options_of_faults_are_those_that_are_read(self) -> None:
        source = (PROJECT / "sandbox/fault_answers.py").read_text("utf-8")
        read = set(re.findall(r"options(?:\.get\(|\[)['\"](\w+)", source))
        rows = [row for row in SANDBOX.rows("Faults") if len(row) == 3]
        told = {
            name for row in rows for name in spans(row[1].split("(")[0] + row[1].split(")")[-1])
        }
        assert told == read

    def test_settings_have_their_defaults(self) -> None:
        known = msgspec.to_builtins(Settings())
        del known["limits"]
        told: dict[str, str] = {}
        for row in SANDBOX.rows("Time and settings"):
            told |= zip(spans(row[0]), row[1].split(" · "), strict=True)
        del told["limits"]
        assert {name: json.loads(text) for name, text in told.items()} == known

    def test_addresses_are_those_that_there_are(self) -> None:
        told = [
            *SANDBOX.rows("What it stands in for"),
            *SANDBOX.rows("The control plane"),
        ]
        named = {
            span
            for row in told
            for span in spans(row[0])
            if re.match(r"(GET|POST|PUT|PATCH|DELETE) /", span)
        }
        environment = re.compile(r"<any\([a-z,]+\):environment>")
        there = set()
        for rule in sandbox_app.create_app(World()).url_map.iter_rules():
            path = environment.sub("{environment}", rule.rule)
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path)
            if path.startswith(("/{environment}/v2/", "/_sandbox/")):
                path = path.removeprefix("/{environment}/v2").removeprefix("/_sandbox")
                there |= {
                    f"{method} {path}" for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
                }
        assert named == there

    def test_words_of_orders_are_those_that_are_understood(self) -> None:
        section = SANDBOX.section("The control plane")
        for words in (
            get_args(orders.DownMode),
            state.LATARNIA_STATUSES,
            get_args(orders.State),
            orders.SessionOrder.__struct_encode_fields__,
            orders.InvoiceOrder.__struct_encode_fields__,
        ):
            assert [word for word in words if f"`{word}`" not in section] == []
