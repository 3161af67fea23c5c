"""Who is let in: keys, files of keys, rates, addresses."""

import hashlib
import os
from pathlib import Path

import httpx2
import pytest

from bitweir_services.api import create_app
from bitweir_services.api_keys import KEY_COUNT_MAX, ApiKeys, RateLimit, check_address, is_loopback
from bitweir_services.api_server import server
from bitweir_services.errors import ApiKeysError
from tests.unit.services.running_api import CHAT, HI, post, with_client
from tests.unit.services.scripted_answering import ScriptedAnswering


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEYS = ApiKeys((name, bytes.fromhex(digest(key))) for name, key in [("a", "ka"), ("a", "kb"), ("metrics", "km")])


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers", [{}, bearer("kc"), bearer(""), bearer("x" * 10_000), {"authorization": "Basic ka"}, {"x-api-key": "ka"}]
)
def test_without_a_right_key_nothing_is_read(headers: dict[str, str]) -> None:
    answering = ScriptedAnswering()
    response = post(answering, body=b"not JSON", headers=headers, keys=KEYS)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/models", "/v1/models/x", "/metrics"):
        assert with_client(answering, lambda c, path=path: c.get(path, headers=headers), keys=KEYS).status_code == 401
    assert with_client(answering, lambda c: c.get("/health"), keys=KEYS).status_code == 200
    assert not answering.asked


def test_a_key_and_a_user_are_a_tenant() -> None:
    answering = ScriptedAnswering()
    for key, user in (("ka", "x"), ("kb", "x"), ("km", "x"), ("ka", "")):
        headers = {**bearer(key), "origin": "http://example.org"}
        assert post(answering, body={**HI, "user": user}, headers=headers, keys=KEYS).status_code == 200
    assert [question.tenant for question in answering.asked] == ["a/x", "a/x", "metrics/x", "a/"]


def test_metrics_are_for_the_key_of_that_name() -> None:
    answering = ScriptedAnswering()
    for key, status in (("km", 200), ("ka", 403)):
        response = with_client(answering, lambda c, key=key: c.get("/metrics", headers=bearer(key)), keys=KEYS)
        assert response.status_code == status


def test_a_file_of_keys_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\nalice {digest('k1')}\nbob  {digest('k2')}\nalice {digest('k3')}\n")
    path.chmod(0o600)
    keys = ApiKeys.read(path)
    assert [keys.name_of(key) for key in ("k1", "k2", "k3", "k4", "", "\ud800")] == ["alice", "bob", "alice"] + [
        None
    ] * 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# nobody\n",
        b"alice\n",
        b"alice 00\n",
        b"alice " + b"g" * 64 + b"\n",
        b"alice " + b"A" * 64 + b"\n",
        b"alice " + b"0" * 64 + b" more\n",
        b"a/b " + b"0" * 64 + b"\n",
        b"a " + b"0" * 64 + b"\nb " + b"0" * 64 + b"\n",
        b"\xc3\xa9 " + b"0" * 64 + b"\n",
        b"#" * 300_000,
        b"".join(b"a %064d\n" % number for number in range(KEY_COUNT_MAX + 1)),
    ],
    ids=lambda content: content[:12].decode("latin-1"),
)
def test_a_damaged_file_of_keys_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ApiKeysError) as caught:
        ApiKeys.read(path)
    assert caught.value.remedy


def test_a_file_that_others_may_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"a {digest('k')}\n")
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(ApiKeysError, match="others may open"):
            ApiKeys.read(path)
    for other in (tmp_path, tmp_path / "gone"):
        with pytest.raises(ApiKeysError):
            ApiKeys.read(other)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ApiKeysError, match="not a file"):
        ApiKeys.read(tmp_path / "pipe")


def test_a_key_has_a_limit() -> None:
    keys = ApiKeys([("a", bytes.fromhex(digest("k" * 256))), ("b", bytes.fromhex(digest("k" * 257)))])
    assert (keys.name_of("k" * 256), keys.name_of("k" * 257)) == ("a", None)


def test_a_wrong_line_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("alice key-in-the-clear\n")
    path.chmod(0o600)
    with pytest.raises(ApiKeysError, match="line 1") as caught:
        ApiKeys.read(path)
    assert "clear" not in f"{caught.value}{caught.value.remedy}"


def test_a_bucket_fills_again() -> None:
    now = 100.0
    rate = RateLimit(per_minute=60, burst=3, clock=lambda: now)
    assert [rate.take("a") for _ in range(3)] == [0, 0, 0]
    assert rate.take("a") == pytest.approx(1)
    assert rate.take("b", 3) == 0
    now += 0.5
    assert rate.take("a") == pytest.approx(0.5)
    now += 0.5
    assert rate.take("a") == 0
    now += 1000
    assert rate.take("a", 4) == float("inf")
    assert rate.take("a", 3) == 0
    for per_minute, burst in ((0, 1), (-1, 1), (float("inf"), 1), (float("nan"), 1), (1, 0)):
        with pytest.raises(ApiKeysError):
            RateLimit(per_minute, burst)


def test_a_key_that_asks_too_often_waits_and_another_does_not() -> None:
    now = 100.0

    async def use(client: httpx2.AsyncClient) -> None:
        nonlocal now
        asked = [(await client.post(CHAT, json=HI, headers=bearer("ka"))).status_code for _ in range(2)]
        assert asked == [200, 200]
        response = await client.post(CHAT, json=HI, headers=bearer("kb"))
        assert (response.status_code, response.headers["retry-after"]) == (429, "6")
        assert response.json()["error"]["code"] == "rate_limit_exceeded"
        assert response.json()["error"]["type"] == "rate_limit_error"
        # Choices count one by one, and more than ever fit are refused for good.
        assert (await client.post(CHAT, json={**HI, "n": 2}, headers=bearer("km"))).status_code == 200
        now += 60
        assert (await client.post(CHAT, json={**HI, "n": 4}, headers=bearer("km"))).json()["error"]["param"] == "n"

    with_client(ScriptedAnswering(), use, keys=KEYS, rate=RateLimit(10, 2, clock=lambda: now))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104
        ("::", False), ("", False), ("10.0.0.1", False), ("::ffff:10.0.0.1", False),
        ("example.org", False), ("localhost.example.org", False), ("127.1", False), ("127.0.0.1 ", False),
    ],
)  # fmt: skip
def test_an_address_that_others_reach_needs_keys(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
    check_address(host, KEYS)
    app = create_app(ScriptedAnswering(), keys=None)
    if expected:
        check_address(host, None)
        server(app, host=host, port=0)
    else:
        with pytest.raises(ApiKeysError, match="budget"):
            server(app, host=host, port=0)
    server(create_app(ScriptedAnswering(), keys=KEYS), host=host, port=0)
