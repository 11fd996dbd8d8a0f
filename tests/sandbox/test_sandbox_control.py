"""The control plane, the server around it, and the identifiers."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import date, datetime, timedelta
from urllib.parse import urlsplit

import pytest
import requests

from sandbox import identifiers, server
from sandbox.app import create_app
from sandbox.clock import parse_stamp, stamp
from sandbox.control import Control, ControlError
from sandbox.world import World
from tests.sandbox.ksef_client import NIP, Client


def test_the_checksum_of_the_documented_ksef_number():
    assert identifiers.crc8("5265877635-20250826-0100001AF629") == "AF"


def test_numbers_have_the_official_shape_and_a_right_checksum():
    number = identifiers.ksef_number(NIP, date(2026, 1, 15))
    assert len(number) == 35
    assert re.fullmatch(identifiers.KSEF_NUMBER, number)
    assert number[-2:] == identifiers.crc8(number[:32])
    assert identifiers.ksef_number(NIP, date(2026, 1, 15), "a") == identifiers.ksef_number(
        NIP, date(2026, 1, 15), "a"
    )
    reference = identifiers.reference_number("SO", date(2026, 1, 15))
    assert reference.startswith("20260115-SO-")
    assert re.fullmatch(identifiers.REFERENCE, reference)
    assert reference != identifiers.reference_number("SO", date(2026, 1, 15))


@pytest.mark.parametrize("text", ["٥265877635", NIP + "\n", "0265877635", "5005877635", ""])
def test_what_is_no_nip(text):
    assert not re.fullmatch(identifiers.NIP, text)


def test_stamps_have_seven_digits_and_an_offset():
    moment = parse_stamp("2026-01-15T12:00:00.123456+01:00")

    assert stamp(moment) == "2026-01-15T11:00:00.1234560+00:00"
    assert parse_stamp(stamp(moment)) == moment
    assert parse_stamp("2026-01-15T12:00:00").tzinfo is not None


def test_the_clock_can_be_moved_frozen_and_reset(control):
    def difference():
        now = datetime.fromisoformat(control.now())
        return (now - datetime.now(now.tzinfo)) / timedelta(seconds=1)

    assert abs(difference()) < 5
    control.advance(3600)
    assert abs(difference() - 3600) < 5
    frozen = control.freeze()
    assert control.now() == frozen == control.freeze()
    moved = datetime.fromisoformat(control.advance(10)) - datetime.fromisoformat(frozen)
    assert moved == timedelta(seconds=10)
    assert control.freeze(False) > frozen
    assert control.now() < control.now()
    with pytest.raises(ControlError, match="forward"):
        control.advance(-1)
    control.reset()
    assert abs(difference()) < 5


def test_reset_forgets_everything_and_restores_settings(client, control):
    seeded = control.seed_session("test", NIP)
    control.settings(quota=True, authPolls=7)
    control.fault("html-503", times=None)
    control.set_api("prod", available=False)
    control.set_latarnia("prod", "FAILURE")
    control.reset()

    assert control.calls() == []
    assert control.waiting_faults() == []
    assert control.session_references("test") == []
    assert (control.settings()["quota"], control.settings()["authPolls"]) == (False, 1)
    assert client.get("/rate-limits").status_code == 401
    with pytest.raises(ControlError, match="404"):
        control.session("test", seeded.reference_number)


def test_the_log_tells_what_was_asked_but_no_secret(client, make_client, control):
    reference = control.seed_session("test", NIP).reference_number
    control.clear_calls()
    client.get(
        f"/sessions/{reference}/invoices?pageSize=10",
        headers={"x-continuation-token": "secret-token", "User-Agent": "erp/1"},
    )
    make_client("demo").get("/security/public-key-certificates")

    first, second = control.calls()
    assert (first.service, first.environment, first.method) == ("api", "test", "GET")
    assert first.path == f"/test/v2/sessions/{reference}/invoices"
    assert first.route == "/{environment}/v2/sessions/{reference}/invoices"
    assert (first.status, first.nip, first.page_size, first.query) == (
        400,
        NIP,
        "10",
        "pageSize=10",
    )
    assert (first.has_continuation_token, first.has_bearer) == (True, True)
    assert (first.error_format, first.user_agent) == ("problem-details", "erp/1")
    assert (second.environment, second.status, second.nip, second.has_bearer) == (
        "demo",
        200,
        None,
        False,
    )
    assert "secret" not in repr(first)
    assert client.access_token not in repr(first)
    assert control.calls("demo") == [second]
    assert control.call_counts("demo") == {
        "GET /{environment}/v2/security/public-key-certificates": 1
    }
    assert control.call_counts()[f"GET {first.route}"] == 1
    control.clear_calls()
    assert (control.calls(), control.call_counts()) == ([], {})


@pytest.mark.parametrize("mode", ["503-html", "reset", "hang"])
def test_an_environment_can_be_taken_down(make_client, control, download, sandbox, mode):
    control.set_api("test", available=False, mode=mode)
    client = make_client()
    if mode == "503-html":
        answer = client.get("/security/public-key-certificates")
        assert (answer.status_code, answer.headers["Content-Type"][:9]) == (503, "text/html")
    else:
        address = urlsplit(sandbox.url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=0.3)
        connection.request("GET", "/test/v2/security/public-key-certificates")
        with pytest.raises(ConnectionResetError if mode == "reset" else TimeoutError):
            connection.getresponse()
        connection.close()
    assert make_client("demo").get("/security/public-key-certificates").status_code == 200
    assert download(f"{sandbox.url}/latarnia/test/status").status_code == 200

    control.set_api("test", available=True)
    assert client.get("/security/public-key-certificates").status_code == 200


def test_latarnia_says_what_it_is_told(control, download, sandbox):
    def ask(path):
        return download(f"{sandbox.url}/latarnia/prod/{path}")

    assert ask("status").json() == {"status": "AVAILABLE"}
    assert ask("messages").json() == []

    [message] = control.set_latarnia("prod", "FAILURE")
    assert ask("status").json() == {"status": "FAILURE", "messages": [message]}
    assert ask("messages").json() == [message]
    members = "id eventId category type title text start end version published"
    assert set(message) == set(members.split())
    assert (message["category"], message["type"], message["end"]) == (
        "FAILURE",
        "FAILURE_START",
        None,
    )
    [total] = control.set_latarnia("prod", "TOTAL_FAILURE")
    [maintenance] = control.set_latarnia("prod", "MAINTENANCE")
    texts = {one["category"]: one["text"] for one in (message, total, maintenance)}
    assert "w trybie awaryjnym" in texts["FAILURE"]
    assert "poza KSeF" in texts["TOTAL_FAILURE"]
    assert "w trybie offline" in texts["MAINTENANCE"]
    assert maintenance["type"] == "MAINTENANCE_ANNOUNCEMENT"

    control.set_latarnia("prod", "SOLAR_STORM", messages=[{"id": 7}])
    assert ask("status").json() == {"status": "SOLAR_STORM", "messages": [{"id": 7}]}
    control.set_latarnia("prod", available=False)
    assert ask("status").status_code == ask("messages").status_code == 503
    control.set_latarnia("prod", "AVAILABLE")
    assert ask("status").json() == {"status": "AVAILABLE"}
    [started] = control.set_latarnia("prod", "FAILURE")
    [ended] = control.set_latarnia("prod", "AVAILABLE")
    assert ask("status").json() == {"status": "AVAILABLE"}
    assert ask("messages").json() == [ended]
    assert (ended["type"], ended["version"]) == ("FAILURE_END", 2)
    assert (ended["eventId"], ended["start"]) == (started["eventId"], started["start"])
    assert ended["end"] == ended["published"]
    assert download(f"{sandbox.url}/latarnia/test/status").json() == {"status": "AVAILABLE"}


def test_the_control_plane_answers_this_machine_only():
    app = create_app(World()).test_client()
    statuses = {
        address: app.get("/_sandbox/clock", environ_base={"REMOTE_ADDR": address}).status_code
        for address in (
            "127.0.0.1",
            "127.8.8.8",
            "::1",
            "::ffff:127.0.0.1",
            "192.0.2.7",
            "fe80::1%eth0",
        )
    }

    assert [address for address, status in statuses.items() if status == 200] == [
        "127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1",
    ]  # fmt: skip
    assert {statuses["192.0.2.7"], statuses["fe80::1%eth0"]} == {403}


def test_wrong_orders_are_refused_with_a_reason(control):
    reference = control.seed_session("test", NIP).reference_number
    for order, reason in (
        (lambda: control.seed_session("test", "12"), "nip"),
        (lambda: control.seed_session("test", NIP, kind="fax"), "kind"),
        (lambda: control.seed_session("test", NIP, state="lost"), "state"),
        (lambda: control.seed_session("test", NIP, reference_number="X"), "referenceNumber"),
        (
            lambda: control.seed_session("test", NIP, invoices=[{"number": 1}]),
            "unknown field `number`",
        ),
        (lambda: control.seed_session("test", NIP, invoices=[{"ksefNumber": "1"}]), "ksefNumber"),
        (lambda: control.seed_session("test", NIP, invoices=[{"status": 150}]), "is over"),
        (lambda: control.change_session("test", reference, state="lost"), "state"),
        (lambda: control.change_invoice("test", reference, 9, status=200), "invoice 9"),
        (lambda: control.settings(speed=1), "unknown field `speed`"),
        (lambda: control.settings(quota=1), "Expected `bool`, got `int` - at `.\\.quota`"),
        (lambda: control.settings(authPolls=1.5), "authPolls"),
        (lambda: control.add_token("test", "x"), "nip"),
        (lambda: control.set_token_outcome("test", 450, token="none"), "404"),
        (lambda: control.set_api("test", available=False, mode="fire"), "mode"),
    ):
        with pytest.raises(ControlError, match=reason):
            order()
    assert control.session_references("test") == [reference]


def test_a_session_of_a_client_can_be_looked_at_and_removed(client, control):
    session = client.open_session()
    seen = control.session("test", session.reference)
    assert (seen.nip, seen.kind, seen.status, seen.invoices) == (NIP, "online", 100, [])

    control.remove_session("test", session.reference)
    assert client.get(f"/sessions/{session.reference}").json()["errors"][0]["code"] == 21173


def test_unknown_paths_are_404(download, sandbox):
    for path in (
        "/",
        "/staging/v2/sessions",
        "/test/v3/sessions",
        "/test/v2/nothing",
        "/test/v2/auth/sessions/",
        "/_sandbox/x",
        "/_sandbox/nowhere/sessions",
        "/_sandbox/latarnia/nowhere",
    ):
        answer = download(sandbox.url + path)
        assert answer.status_code == 404
        assert answer.json() == {
            "error": f"GET {path}: Not Found. docs/sandbox.md lists what there is."
        }


def test_another_method_is_told_with_those_that_there_are(sandbox):
    answer = requests.put(f"{sandbox.url}/_sandbox/clock", timeout=10)
    assert answer.status_code == 405
    assert {*answer.headers["Allow"].split(", ")} == {"OPTIONS", "GET", "POST", "HEAD"}
    assert "PUT /_sandbox/clock" in answer.json()["error"]


def test_connections_are_kept_also_after_errors_and_bodies(sandbox):
    address = urlsplit(sandbox.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=5)
    connection.connect()
    local = connection.sock.getsockname()
    for method, path, body, status in (
        ("GET", "/test/v2/security/public-key-certificates", None, 200),
        ("POST", "/test/v2/auth/challenge", b"ignored body", 200),
        ("POST", "/test/v2/auth/ksef-token", b"x" * 100_000, 400),
        ("GET", "/nowhere", b"body", 404),
        ("POST", "/test/v2/auth/challenge", iter([b"chunked", b"body"]), 200),
        ("HEAD", "/test/v2/security/public-key-certificates", None, 200),
        ("GET", "/test/v2/sessions", None, 401),
    ):
        connection.request(method, path, body, encode_chunked=True)
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.version) == (status, 11)
        assert connection.sock.getsockname() == local
    connection.request("GET", "/nowhere", headers={"Connection": "close"})
    answer = connection.getresponse()
    answer.read()
    assert answer.getheader("Connection") == "close"
    connection.close()


def test_warnings_can_be_asked_for_as_on_test(client):
    answer = client.get("/rate-limits", headers={"X-Test-System-Warning": "[7]: soon"})

    assert answer.headers["X-System-Warning"] == "[7]: soon"


def test_stopping_gives_the_port_back_and_ends_kept_connections():
    running = server.start()
    port = urlsplit(running.url).port
    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    kept.request("GET", "/latarnia/test/status")
    kept.getresponse().read()
    running.stop()
    running.stop()

    kept.sock.settimeout(5)
    assert kept.sock.recv(1) == b""
    kept.close()
    with server.start(port=port) as again:
        assert again.url == running.url


def test_start_takes_environments_down_and_keeps_them_down(download):
    with server.start(down=["prod"], quota=True, latency=0.05) as running:
        began = time.perf_counter()
        assert (
            download(f"{running.url}/prod/v2/security/public-key-certificates").status_code == 503
        )
        assert time.perf_counter() - began >= 0.05
        with Control(running.url) as control:
            control.settings(quota=False, latencySeconds=0.0)
            control.reset()
            assert (control.settings()["quota"], control.settings()["latencySeconds"]) == (
                True,
                0.05,
            )
        assert download(f"{running.url}/latarnia/prod/status").json()["status"] == "FAILURE"
        assert download(f"{running.url}/latarnia/demo/status").json() == {"status": "AVAILABLE"}


def test_it_runs_on_its_own(download):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox", "--port", str(port), "--down", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        text=True,
    )
    try:
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        client = Client(f"http://127.0.0.1:{port}/test/v2")
        with Control(f"http://127.0.0.1:{port}") as control:
            client.log_in(control.add_token("test", NIP))
        client.http.close()
        assert (
            download(f"http://127.0.0.1:{port}/latarnia/demo/status").json()["status"] == "FAILURE"
        )
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--port", "abc", "'abc' is not a port"),
        ("--port", "99999", "'99999' is not a port"),
        ("--host", "no.such.host.invalid", "nobody can listen at no.such.host.invalid"),
        ("--latency", "-1", "'-1' is not a number of seconds"),
    ],
)
def test_what_cannot_be_started_is_told_in_a_sentence(option, value, said):
    words = [sys.executable, "-m", "sandbox", "--port", "0", f"{option}={value}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("POST", "clock", {"advance": 1e300}, "so many seconds lead beyond the calendar"),
        ("POST", "clock", {"advance": "x"}, "`$.advance`"),
        ("PATCH", "settings", {"limits": {"nobody": {}}}, "limits: no group nobody; there are onl"),
        ("PATCH", "settings", {"limits": {"other": {"perDay": 1}}}, "`perDay`"),
        ("PATCH", "settings", {"limits": {"other": {"perHour": -2}}}, "`$.limits[...].perHour`"),
        ("PATCH", "settings", {"latencySeconds": -1}, "`$.latencySeconds`"),
        ("PATCH", "settings", {"jitterSeconds": -1}, "`$.jitterSeconds`"),
        ("PATCH", "settings", {"accessTokenSeconds": -1}, "`$.accessTokenSeconds`"),
        ("PATCH", "settings", {"linkSeconds": 1e300}, "`$.linkSeconds`"),
        ("PATCH", "settings", {"authPolls": -1}, "`$.authPolls`"),
        ("PATCH", "settings", {"quotaScale": 0}, "`$.quotaScale`"),
        ("PATCH", "settings", {"quotaScale": -1}, "`$.quotaScale`"),
        ("PATCH", "settings", {"clockRate": 1e300}, "`$.clockRate`"),
        ("PATCH", "settings", {"limits": 5}, "Expected `object`, got `int` - at `$.limits`"),
        ("PATCH", "settings", {"upoPageSize": 0}, "`$.upoPageSize`"),
        ("PATCH", "settings", {"clockRate": -1}, "`$.clockRate`"),
        ("POST", "test/sessions", {"nip": NIP, "dateCreated": "x"}, "dateCreated: a date and time"),
        ("POST", "test/sessions", {"nip": NIP, "invoices": -1}, "`$.invoices`"),
        ("POST", "test/sessions", {"nip": "12"}, "Has not the right form - at `$.nip`"),
        ("POST", "test/sessions", {"nip": NIP, "finishesAfter": -1}, "`$.finishesAfter`"),
        ("POST", "test/sessions", {"nip": NIP, "finishesAfter": 1e300}, "`$.finishesAfter`"),
        ("POST", "test/sessions", {"nip": NIP, "code": 7}, "`$.code`"),
        ("POST", "test/sessions", {"nip": NIP, "loginDocumentHash": "x"}, "`$.loginDocumentHash`"),
        (
            "POST",
            "test/sessions",
            {"nip": NIP, "invoices": [{"issueDate": "x"}]},
            "`$.invoices[0].issueDate`",
        ),
        (
            "POST",
            "test/sessions",
            {"nip": NIP, "invoices": [{"issueDate": "2026-02-30"}]},
            "`$.invoices[0].issueDate`",
        ),
        ("POST", "test/sessions", {"nip": NIP, "invoices": [{"status": 7}]}, "[0].status`"),
        ("POST", "test/tokens", {"nip": NIP, "outcome": 10**30}, "`$.outcome`"),
        ("PATCH", "test/tokens", {"nip": "x", "outcome": 450}, "form - at `$.nip`"),
        ("PUT", "test/api", {"available": False, "mode": "fire"}, "`$.mode`"),
        ("PUT", "latarnia/test", {"status": "SOLAR_STORM"}, "status: without messages one of AV"),
        ("PUT", "latarnia/test", {"messages": [7]}, "`$.messages[0]`"),
        ("POST", "test/certificates", {"nip": NIP, "certificate": "x"}, "certificate: a certif"),
        ("POST", "test/bearers/expire", {"kind": "x"}, "`$.kind`"),
        ("POST", "faults", {"fault": {"status": "abc"}}, "`$.status`"),
        ("POST", "faults", {"fault": {"status": 9999}}, "`$.status`"),
        ("POST", "faults", {"fault": {"status": 500, "headers": 5}}, "`$.headers`"),
        ("POST", "faults", {"fault": {"status": 500, "headers": {"a": "b\nc"}}}, "`$.headers"),
        ("POST", "faults", {"fault": {"status": 500, "headers": {"a\nb": "c"}}}, "in `$.headers"),
        ("POST", "faults", {"fault": {"status": 500, "headers": {"a": "ł"}}}, "`$.headers"),
        (
            "POST",
            "faults",
            {"fault": {"kind": "set-header", "name": "a b"}},
            "form - at `$.name`",
        ),
        (
            "POST",
            "faults",
            {"fault": {"kind": "set-header", "name": "a", "value": "b\r\nc: d"}},
            "form - at `$[...]`",
        ),
        (
            "POST",
            "faults",
            {"fault": {"kind": "rate-limited", "retryAfter": "1\n2"}},
            "form - at `$.retryAfter`",
        ),
        (
            "POST",
            "faults",
            {"fault": {"kind": "oversize", "contentType": "a\nb"}},
            "form - at `$.contentType`",
        ),
        ("POST", "faults", {"fault": {"kind": "gzip-bomb", "bytes": 2**40}}, "`$.bytes`"),
        ("POST", "faults", {"fault": {"kind": "reset"}, "environment": "x"}, "`$.environment`"),
        ("POST", "faults", {"fault": {"kind": "reset"}, "service": "x"}, "`$.service`"),
        (
            "POST",
            "faults",
            {"fault": {"kind": "reset"}, "path": "("},
            "path: is not a regular expression",
        ),
        ("POST", "faults", {"fault": {"kind": "ksef-error", "code": "x"}}, "`$.code`"),
        ("POST", "faults", {"fault": {"kind": "hang", "seconds": "x"}}, "`$.seconds`"),
        ("POST", "faults", {"fault": {"kind": "set-field", "field": 5}}, "`$.field`"),
        ("POST", "faults", {"fault": {"kind": "reset", "tims": 5}}, "`tims`"),
        ("POST", "faults", {"fault": {"kind": "reset"}, "times": 0}, "`$.times`"),
    ],
)
def test_a_wrong_order_is_told_in_words_with_its_field(sandbox, method, path, body, said):
    answer = requests.request(method, f"{sandbox.url}/_sandbox/{path}", json=body, timeout=10)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert not re.search(r"regex|\\|Error|\[0-9", answer.json()["error"])  # Python's own words


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\xff", "JSON is malformed"),
        (b'{"clockRate": "\xff"}', "the JSON is not UTF-8"),
        (b"{", "truncated"),
        (b'{"limits": ' + b"[" * 100_000, "nested too deeply"),
        (b"[]", "Expected `object`"),
    ],
    ids=["no JSON", "no UTF-8", "half", "nested", "no object"],
)
def test_what_is_no_order_at_all_is_told_in_words(sandbox, body, said):
    answer = requests.patch(f"{sandbox.url}/_sandbox/settings", data=body, timeout=10)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_an_invoice_with_a_number_beyond_all_lists_does_not_exist(control):
    reference = control.seed_session("test", NIP).reference_number
    with pytest.raises(ControlError, match="404"):
        control.change_invoice("test", reference, "9" * 5000, status=200)


def test_latarnia_may_say_anything_in_messages_of_its_own(control):
    assert control.set_latarnia("prod", "SOLAR_STORM", messages=[{"id": 7}]) == [{"id": 7}]


def test_a_fault_that_does_not_fit_the_answer_says_so(client, control):
    control.fault("set-field", field="status.code.x", value=1)
    answer = client.get("/rate-limits")
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "fault set-field status.code.x: the answer to this call has no such."
    }
