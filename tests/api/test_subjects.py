"""Subjects over HTTP: a login, and what may no longer be known."""

from __future__ import annotations

from tests.api.conftest import Site


def test_a_login_is_linked_and_its_outcome_attributed(site: Site) -> None:
    """The anonymous visitor's decision earns what billing later says of the login."""
    site.decide({"id": "d1", "subject": "cookie-1"})
    answer = site.call("POST", "/v1/subjects/cookie-1/identify", {"identified_as": "customer-7"}, key="reward")
    assert answer.status_code == 200
    assert answer.json()["person"] == ["customer-7", "cookie-1"]
    again = site.call("POST", "/v1/subjects/cookie-1/identify", {"identified_as": "customer-7"})
    assert again.json()["status"] == "repeat"
    outcome = site.call("POST", "/v1/outcomes", {"subject": "customer-7", "kind": "subscribed", "id": "invoice-1"})
    assert outcome.json()["attributed_to"] == ["d1"]


def test_a_wrong_link_is_refused(site: Site) -> None:
    """Another login for the same id is a conflict, oneself is nonsense."""
    site.call("POST", "/v1/subjects/cookie-1/identify", {"identified_as": "customer-7"})
    other = site.call("POST", "/v1/subjects/cookie-1/identify", {"identified_as": "customer-8"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    assert site.call("POST", "/v1/subjects/a/identify", {"identified_as": "a"}).status_code == 400
    back = site.call("POST", "/v1/subjects/customer-7/identify", {"identified_as": "cookie-1"})
    assert "circle" in back.json()["error"]["message"]


def test_erasure_leaves_nothing_that_says_who_it_was(site: Site) -> None:
    """Events, features and links of the person are gone from the store's files; decisions and experiments still count."""
    site.decide({"id": "d1", "subject": "cookie-77", "features": {"town": "Nowhereville"}})
    site.call("POST", "/v1/events", {"subject": "cookie-77", "kind": "view", "item": "secret-item"})
    site.call("POST", "/v1/subjects/cookie-77/identify", {"identified_as": "jane@example.org"})
    for key in ("decide", "reward", "read"):
        assert site.call("DELETE", "/v1/subjects/jane@example.org", key=key).status_code == 403
    answer = site.call("DELETE", "/v1/subjects/jane@example.org")
    assert answer.status_code == 200
    assert (answer.json()["n_ids"], answer.json()["n_decisions"], answer.json()["n_events"]) == (2, 1, 1)
    logged = site.call("GET", "/v1/decisions/d1").json()
    assert (logged["subject"], logged["features"]) == (answer.json()["pseudonym"], {})
    assert site.call("GET", "/v1/placements/offer_page/status").json()["n_decisions"] == 1
    again = site.call("DELETE", "/v1/subjects/jane@example.org")
    assert (again.status_code, again.json()["n_decisions"]) == (200, 0)
    kept = b"".join(p.read_bytes() for p in site.settings.home.rglob("*") if p.is_file())
    for word in (b"cookie-77", b"jane@example.org", b"Nowhereville", b"secret-item"):
        assert word not in kept, word
    # The id is free again, and nothing of before is known of it.
    assert site.call("POST", "/v1/subjects/cookie-77/identify", {"identified_as": "other"}).json()["person"] == [
        "other",
        "cookie-77",
    ]
