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
