"""Login by KSeF token: what is checked, what can go wrong, how long tokens live."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from tests.sandbox.ksef_client import NIP, OTHER_NIP, base64_text


def codes(answer):
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    return [error["code"] for error in answer.json()["errors"]]


def test_the_active_logins_of_a_company_are_listed_the_newest_first(make_client, control):
    """Not taken for the status of a login with the reference `sessions`."""
    token = control.add_token("test", NIP)
    clients = [make_client() for _ in range(3)]
    for client in clients:
        client.log_in(token)
        control.advance(1)
    stranger = make_client(nip=OTHER_NIP)
    stranger.log_in(control.add_token("test", OTHER_NIP))
    clients[0].call("DELETE", "/auth/sessions/current", bearer=clients[0].access_token)

    answer = clients[1].get("/auth/sessions")
    assert answer.status_code == 200
    assert answer.json()["continuationToken"] is None
    shown = [(item["referenceNumber"], item["isCurrent"]) for item in answer.json()["items"]]
    assert shown == [(clients[2].login_reference, False), (clients[1].login_reference, True)]
    assert {item["status"]["code"] for item in answer.json()["items"]} == {200}
    assert clients[1].get("/auth/sessions?pageSize=101").json()["errors"][0]["code"] == 21405
    assert clients[1].get("/auth/sessions", bearer="").status_code == 401


def test_login_goes_through_100_to_200_and_gives_tokens_once(make_client, control):
    client = make_client()
    started = client.start_login(control.add_token("test", NIP))

    assert started.status_code == 202
    assert client.login_status()["code"] == 100
    assert client.login_status()["code"] == 200
    assert client.redeem().status_code == 200
    assert codes(client.redeem()) == [21301]
    assert client.get("/rate-limits").status_code == 200


def test_redeem_before_the_login_is_through_is_refused(make_client, control):
    client = make_client()
    client.start_login(control.add_token("test", NIP))

    assert codes(client.redeem()) == [21301]
    assert client.settled_login()["code"] == 200
    assert client.redeem().status_code == 200


def test_polls_and_time_until_the_outcome_can_be_set(make_client, control):
    control.freeze()
    control.settings(authPolls=3, authSeconds=5)
    client = make_client()
    client.start_login(control.add_token("test", NIP))

    assert [client.login_status()["code"] for _ in range(4)] == [100] * 4
    control.advance(5)
    assert client.login_status()["code"] == 200


def test_a_wrong_time_is_noticed(make_client, control):
    client = make_client()
    client.start_login(control.add_token("test", NIP), shift_ms=1)

    status = client.settled_login()
    assert (status["code"], status["details"]) == (450, ["Nieprawidłowy czas tokena"])
    assert codes(client.redeem()) == [21301]


def test_an_unknown_token_is_noticed(make_client):
    client = make_client()
    client.start_login("somebody|made|this-up")

    status = client.settled_login()
    assert (status["code"], status["details"]) == (450, ["Nieprawidłowy token"])


def test_a_token_that_was_not_encrypted_for_ksef_is_noticed(make_client, control):
    client = make_client()
    client.start_login(control.add_token("test", NIP), encryptedToken=base64_text(b"x" * 256))

    status = client.settled_login()
    assert (status["code"], status["details"]) == (450, ["Nieprawidłowe szyfrowanie tokena"])


def test_a_token_of_another_company_is_noticed(make_client, control):
    client = make_client(nip=OTHER_NIP)
    client.start_login(control.add_token("test", NIP))

    assert client.settled_login()["code"] == 450


def test_a_token_of_another_environment_is_unknown(make_client, control):
    token = control.add_token("demo", NIP)
    client = make_client("test")
    client.start_login(token)

    assert client.settled_login()["code"] == 450


def test_tokens_with_bars_are_understood(make_client, control):
    token = control.add_token("prod", NIP, "20260101-EC-AAAAAAAAAA-BBBBBBBBBB-CC|nip-x|secret")

    assert make_client("prod").log_in(token).get("/rate-limits").status_code == 200


@pytest.mark.parametrize("outcome", [415, 425, 450, 460, 470, 480, 500, 550])
def test_the_outcome_of_logins_can_be_chosen(make_client, control, outcome):
    token = control.add_token("test", NIP)
    assert control.set_token_outcome("test", outcome, nip=NIP) == 1
    client = make_client()
    client.start_login(token)

    assert client.settled_login()["code"] == outcome


def test_a_challenge_works_once_and_for_ten_minutes(make_client, control):
    token = control.add_token("test", NIP)
    client = make_client()
    unknown = "20260101-CR-0000000000-0000000000-00"
    assert codes(client.start_login(token, challenge=unknown)) == [21111]

    control.freeze()
    challenge = client.post("/auth/challenge").json()
    control.advance(600)
    order = {
        "challenge": challenge["challenge"],
        "contextIdentifier": {"type": "Nip", "value": NIP},
        "encryptedToken": "AAAA",
    }
    assert codes(client.post("/auth/ksef-token", json=order)) == [21111]

    order["challenge"] = client.post("/auth/challenge").json()["challenge"]
    control.advance(599)
    assert client.post("/auth/ksef-token", json=order).status_code == 202
    assert codes(client.post("/auth/ksef-token", json=order)) == [21111]


def test_withdrawn_and_foreign_keys_are_refused(make_client, control):
    token = control.add_token("test", NIP)
    client = make_client()
    old_id, _ = client.public_key("KsefTokenEncryption")
    other_usage, _ = client.public_key("SymmetricKeyEncryption")
    assert codes(client.start_login(token, publicKeyId=other_usage)) == [21470]

    control.rotate_keys("test")
    assert client.public_key("KsefTokenEncryption")[0] != old_id
    assert codes(client.start_login(token, publicKeyId=old_id)) == [21470]
    assert client.log_in(token).access_token


def test_each_environment_has_its_own_keys(make_client):
    ids = {
        make_client(name).public_key(usage)[0]
        for name in ("test", "demo", "prod")
        for usage in ("KsefTokenEncryption", "SymmetricKeyEncryption")
    }
    assert len(ids) == 6


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"encryptedToken": "not base64!"}, 21405),
        ({"encryptedToken": None}, 21405),
        ({"contextIdentifier": {"type": "Nip", "value": "123"}}, 21405),
        ({"contextIdentifier": {"type": "Passport", "value": NIP}}, 21405),
        ({"challenge": None}, 21405),
    ],
)
def test_malformed_logins_are_refused(make_client, changes, code):
    assert codes(make_client().start_login("any", **changes)) == [code]


def test_a_body_that_is_no_json_is_refused(make_client):
    assert codes(make_client().post("/auth/ksef-token", data=b"{")) == [21001]


def test_access_tokens_expire_and_can_be_refreshed(client, control):
    control.freeze()
    first = client.post("/auth/token/refresh", bearer=client.refresh_token).json()
    assert list(first) == ["accessToken"]
    token, until = first["accessToken"]["token"], first["accessToken"]["validUntil"]
    assert datetime.fromisoformat(until) > datetime.fromisoformat(control.now())
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["exp"] == int(datetime.fromisoformat(until).timestamp())

    control.advance(899)
    assert client.get("/rate-limits", bearer=token).status_code == 200
    control.advance(1)
    assert client.get("/rate-limits", bearer=token).status_code == 401

    again = client.post("/auth/token/refresh", bearer=client.refresh_token)
    assert again.status_code == 200
    assert client.get("/rate-limits", bearer=again.json()["accessToken"]["token"]).ok

    control.advance(7 * 86400)
    assert client.post("/auth/token/refresh", bearer=client.refresh_token).status_code == 401


def test_lifetimes_can_be_set(make_client, control):
    control.freeze()
    control.settings(accessTokenSeconds=5.5, refreshTokenSeconds=20)
    client = make_client().log_in(control.add_token("test", NIP))

    control.advance(5.6)
    assert client.get("/rate-limits").status_code == 401
    assert client.post("/auth/token/refresh", bearer=client.refresh_token).status_code == 200
    control.advance(14.5)
    assert client.post("/auth/token/refresh", bearer=client.refresh_token).status_code == 401


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
def test_revoking_ends_the_refresh_token_but_not_the_access_token(client, kind):
    answer = client.call("DELETE", "/auth/sessions/current", bearer=getattr(client, kind))

    assert (answer.status_code, answer.content) == (204, b"")
    assert codes(client.post("/auth/token/refresh", bearer=client.refresh_token)) == [21301]
    assert client.get("/rate-limits").status_code == 200


def test_a_withdrawn_ksef_token_ends_refreshing(client, control):
    control.set_token_outcome("test", 450, nip=NIP)

    assert codes(client.post("/auth/token/refresh", bearer=client.refresh_token)) == [21301]
    assert client.get("/rate-limits").status_code == 200


def test_bearers_can_be_ended_early(client, control):
    assert control.expire_bearers("test", kind="access") == 1

    assert client.get("/rate-limits").status_code == 401
    assert client.post("/auth/token/refresh", bearer=client.refresh_token).status_code == 200


def test_bearers_do_for_their_own_purpose_only(client, make_client):
    reference = "20260101-SO-0000000000-0000000000-00"
    assert client.get(f"/sessions/{reference}", bearer=client.refresh_token).status_code == 401
    assert client.get("/rate-limits", bearer=client.operation_token).status_code == 401
    assert client.post("/auth/token/refresh").status_code == 401
    assert client.post("/auth/token/redeem").status_code == 401
    assert client.get("/rate-limits", bearer="garbage").status_code == 401
    assert make_client().get("/rate-limits").status_code == 401
    assert make_client("demo").get("/rate-limits", bearer=client.access_token).status_code == 401


def test_a_login_is_shown_to_its_owner_for_seven_days(client, make_client, control):
    control.settings(accessTokenSeconds=30 * 86400)
    other = make_client().log_in(control.add_token("test", NIP))
    path = f"/auth/{client.login_reference}"
    assert codes(other.get(path)) == [21304]

    control.advance(7 * 86400 + 1)
    assert other.get(f"/auth/{other.login_reference}").status_code == 410


def test_of_many_that_redeem_at_once_one_gets_the_tokens(make_client, control):
    client = make_client()
    client.start_login(control.add_token("test", NIP))
    client.settled_login()
    rivals = [make_client() for _ in range(8)]

    def redeem(rival):
        return rival.post("/auth/token/redeem", bearer=client.operation_token).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(redeem, rivals))
    assert sorted(statuses) == [200] + [400] * 7
