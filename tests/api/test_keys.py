"""API keys: scopes, placements, rotation, rate limits, public keys."""

from __future__ import annotations

import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from api.app import keys_path
from api.auth import KeyFile, KeyRing, digest_of, new_key
from api.errors import RateLimitError, UnauthorizedError
from policies.errors import InvalidInputError, UnknownNameError
from tests.api.conftest import NOW, Site

PERSON = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
ALLOWED = {
    ("POST", "/v1/placements/offer_page/decisions"): "decide",
    ("POST", "/v1/rewards"): "reward",
    ("POST", "/v1/outcomes"): "reward",
    ("POST", "/v1/events"): "reward",
    ("POST", "/v1/subjects/u1/identify"): "reward",
    ("GET", "/v1/placements/offer_page/status"): "read",
    ("GET", "/v1/decisions/d1"): "read",
    ("GET", "/v1/experiments"): "read",
    ("DELETE", "/v1/subjects/u1"): "admin",
    ("PUT", "/v1/placements/offer_page"): "admin",
    ("POST", "/v1/policies"): "admin",
    ("POST", "/v1/experiments"): "admin",
}


@pytest.mark.parametrize(("method", "path"), ALLOWED, ids=str)
def test_each_scope_opens_its_doors_only(site: Site, method: str, path: str) -> None:
    """A key without the scope of a door is refused before its body is read; admin opens all."""
    for scope in ("decide", "reward", "read", "admin"):
        status = site.call(method, path, None if method in ("GET", "DELETE") else {}, key=scope).status_code
        is_open = scope in (ALLOWED[method, path], "admin")
        assert (status != 403) == is_open, scope
    assert site.client.request(method, path, json={}).status_code == 401
    assert site.call(method, path, {}, key="nxo_guess").status_code == 401


def test_a_bound_key_acts_at_its_placement_only(site: Site) -> None:
    """A key of one placement neither decides nor reads elsewhere."""
    key = site.new_key("shop", "decide", "read", placements=["checkout"])
    site.decide({"id": "d1", "subject": "u1"})
    assert site.decide({"subject": "u"}, key=key).status_code == 403
    assert site.call("GET", "/v1/decisions/d1", key=key).status_code == 403
    assert site.call("GET", "/v1/placements", key=key).json() == {"placements": []}
    assert site.call("POST", "/v1/placements/checkout/decisions", {"subject": "u"}, key=key).status_code == 404


def test_a_bound_key_rewards_and_activates_at_its_placement_only(site: Site) -> None:
    """What it reports of a decision elsewhere is refused, also by a page's public key; of its own it is taken."""
    site.decide({"id": "d1", "subject": "u1", "activated": False})
    for bound, status in ((["checkout"], 403), (["checkout", "offer_page"], 200)):
        key = site.new_key(f"page-{status}", "reward", placements=bound, is_public=True)
        assert site.client.post(f"/v1/decisions/d1/activation?key={key}", headers=PERSON).status_code == status
        body = {"decision": "d1", "kind": "clicked"}
        assert site.client.post(f"/v1/rewards?key={key}", json=body, headers=PERSON).status_code == status
    assert site.call("POST", "/v1/rewards", {"decision": "nope", "kind": "clicked"}, key=key).status_code == 404


def test_a_public_key_works_on_pages_of_allowed_origins_only(make_site: Callable[..., Site]) -> None:
    """A page of another site that copied the key is refused, though no browser would have kept its beacon back."""
    site = make_site(cors_origins=("https://shop.example",))
    site.decide({"id": "d1", "subject": "u1", "activated": False})
    key = site.new_key("page", "reward", is_public=True)
    for origin, status in (("https://evil.example", 403), ("null", 403), ("https://shop.example", 200)):
        answer = site.client.post(f"/v1/decisions/d1/activation?key={key}", headers={**PERSON, "Origin": origin})
        assert answer.status_code == status, origin
    preflight = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    allowed = site.client.options("/v1/rewards", headers=preflight)
    assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
    refused = site.client.options("/v1/rewards", headers={**preflight, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused.headers


def test_a_public_key_reports_and_does_nothing_else(site: Site) -> None:
    """The key that a page shows may come in the address, reports views and clicks, and neither decides nor reads."""
    site.decide({"id": "d1", "subject": "u1", "activated": False})
    key = site.new_key("browser", "reward", is_public=True)
    assert site.client.post(f"/v1/decisions/d1/activation?key={key}").json()["first"] is True
    text = '{"decision": "d1", "kind": "clicked"}'
    answer = site.client.post(f"/v1/rewards?key={key}", content=text, headers={"content-type": "text/plain"})
    assert answer.json()["joined"] is True
    for path in ("/v1/outcomes", "/v1/events", "/v1/placements/offer_page/decisions"):
        assert site.client.post(f"{path}?key={key}", json={"subject": "u", "kind": "k"}).status_code == 403
    secret = site.keys["reward"]
    assert site.client.post(f"/v1/rewards?key={secret}", content=text).status_code == 403
    with pytest.raises(InvalidInputError, match="may only have reward"):
        new_key("browser", scopes=["decide"], at=NOW, is_public=True)


def test_a_rate_limit_says_when_to_come_back(make_site: Callable[..., Site]) -> None:
    """A burst of two seconds' worth passes; the next request gets 429 with Retry-After, other keys are untouched."""
    site = make_site(rate_limit_per_s=3.0)
    statuses = [site.call("GET", "/v1/placements", key="read").status_code for _ in range(8)]
    assert statuses[:6] == [200] * 6
    assert statuses[7] == 429
    refused = site.call("GET", "/v1/placements", key="read")
    assert int(refused.headers["retry-after"]) >= 1
    assert site.call("GET", "/v1/placements", key="admin").status_code == 200


def test_the_bucket_refills_with_time(tmp_path: Path) -> None:
    """After the announced wait one more request passes, and no more than the rate allows in the long run."""
    seconds = [100.0]
    file = KeyFile(tmp_path / "keys.json")
    text, key = new_key("a", scopes=["read"], at=NOW)
    file.add(key)
    ring = KeyRing(file, 2.0, lambda: NOW, monotonic=lambda: seconds[0])
    for _ in range(4):
        ring.find(text)
    with pytest.raises(RateLimitError) as refused:
        ring.find(text)
    seconds[0] += refused.value.retry_after_s
    ring.find(text)
    passed = 0
    for _ in range(1000):
        seconds[0] += 0.01
        try:
            ring.find(text)
            passed += 1
        except RateLimitError:
            pass
    assert 20 <= passed <= 22  # ten seconds at two a second, and what was left in the bucket


def test_keys_are_kept_as_hashes_in_a_private_file(site: Site) -> None:
    """The file holds no key, and only its owner reads it."""
    path = keys_path(site.settings)
    content = path.read_text()
    assert all(text not in content for text in site.keys.values())
    assert digest_of(site.keys["read"]) in content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_rotation_without_a_restart(tmp_path: Path) -> None:
    """Two keys of a name work side by side; revoking the older by its hash leaves the newer; expiry is obeyed."""
    seconds, moment = [0.0], [NOW]
    file = KeyFile(tmp_path / "keys.json")
    old_text, old = new_key("shop", scopes=["decide"], at=NOW)
    file.add(old)
    ring = KeyRing(file, None, lambda: moment[0], monotonic=lambda: seconds[0])
    assert ring.find(old_text).name == "shop"
    new_text, new = new_key("shop", scopes=["decide"], at=NOW, expires_at=NOW + timedelta(days=30))
    file.add(new)
    seconds[0] += 1.5
    assert ring.find(new_text).digest == new.digest
    assert ring.find(old_text).digest == old.digest
    assert file.revoke("shop", digest_start=old.digest[:8]) == 1
    seconds[0] += 1.5
    with pytest.raises(UnauthorizedError, match="not known"):
        ring.find(old_text)
    assert ring.find(new_text).digest == new.digest
    moment[0] = datetime(2026, 4, 1, tzinfo=UTC)
    with pytest.raises(UnauthorizedError, match="expired"):
        ring.find(new_text)
    with pytest.raises(UnknownNameError, match="shop"):
        file.revoke("shpo")


def test_a_damaged_key_file_lets_nobody_in(tmp_path: Path) -> None:
    """A file that cannot be read is an error that names it, never an open door."""
    path = tmp_path / "keys.json"
    path.write_text('{"keys": [{"name": "x"}]}')
    with pytest.raises(InvalidInputError, match=r"keys\.json"):
        KeyRing(KeyFile(path), None, lambda: NOW).find("nxo_x")
