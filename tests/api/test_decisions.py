"""Decisions over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import Site


def test_a_decision_is_answered_logged_and_audited(site: Site) -> None:
    """What is answered is what is logged, probability and all."""
    answer = site.decide({"id": "d1", "subject": "u1", "features": {"visits": 3}}, key="decide")
    assert answer.status_code == 200
    made = answer.json()
    assert made["offer"]["id"] in {"monthly", "annual", "winback"}
    assert made["recorded"] is True
    assert made["offer"]["payload"]["title"]
    logged = site.call("GET", "/v1/decisions/d1", key="read").json()
    assert logged["offer"] == made["offer"]["id"]
    assert logged["probability"] == made["probability"] == logged["probabilities"][logged["chosen"]]
    assert logged["excluded"] == {"student": "students-only"}
    assert logged["features"] == {"visits": 3}
    # The baseline order puts annual first: 0.7 on it, and 0.3 shared among the three eligible offers.
    assert dict(zip(logged["offers"], logged["probabilities"], strict=True)) == pytest.approx(
        {"monthly": 0.1, "annual": 0.8, "winback": 0.1}
    )


def test_the_same_id_and_body_give_the_stored_answer(site: Site) -> None:
    """A retry is harmless; another body under the same id is a conflict."""
    first = site.decide({"id": "d1", "subject": "u1"}).json()
    again = site.decide({"id": "d1", "subject": "u1"}).json()
    assert again == {**first, "repeat": True}
    other = site.decide({"id": "d1", "subject": "u2"})
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "conflict"


def test_an_idempotency_key_names_the_decision(site: Site) -> None:
    """Without an id in the body, the Idempotency-Key header makes the retry harmless."""
    headers = {"Idempotency-Key": "checkout-77"}
    first = site.decide({"subject": "u1"}, headers=headers).json()
    again = site.decide({"subject": "u1"}, headers=headers).json()
    assert first["id"] == "checkout-77"
    assert again["repeat"] is True
    assert site.decide({"subject": "u9"}, headers=headers).status_code == 409
    assert site.decide({"subject": "u1"}, headers={"Idempotency-Key": "a b"}).status_code == 400


def test_candidates_of_the_request_replace_the_catalogue(site: Site) -> None:
    """Offers sent with a request are chosen from, and their payload comes back."""
    made = site.decide(
        {
            "subject": "u1",
            "offers": [{"id": "x", "payload": {"n": 1}}, {"id": "y", "payload": {"n": 2}}],
            "exclude": ["x"],
        }
    ).json()
    assert made["offer"] == {"id": "y", "payload": {"n": 2}}
    assert made["probability"] == 1.0


def test_explain_says_why_and_dry_run_leaves_no_trace(site: Site) -> None:
    """``explain`` names the rule that excluded an offer; a dry run is not in the log."""
    made = site.decide({"id": "d1", "subject": "u1", "explain": True, "dry_run": True}).json()
    assert made["explanation"]["excluded"] == {"student": "students-only"}
    assert sum(made["explanation"]["probabilities"].values()) == pytest.approx(1.0)
    assert site.call("GET", "/v1/decisions/d1").status_code == 404
    assert site.call("GET", "/v1/placements/offer_page/status").json()["n_decisions"] == 0


def test_a_batch_equals_its_rows(site: Site) -> None:
    """A batch gives each entry what a request of its own gives, and a fault of one leaves the others alone."""
    bodies: list[dict[str, Any]] = [{"id": f"b{i}", "subject": f"u{i}"} for i in range(5)]
    bodies.insert(2, {"id": "bad", "subject": "u9", "exclude": ["monthly", "annual", "winback"]})
    answer = site.call("POST", "/v1/placements/offer_page/decisions:batch", {"decisions": bodies}, key="decide")
    assert answer.status_code == 200
    entries = answer.json()["decisions"]
    assert entries[2]["decision"] is None
    assert entries[2]["error"]["code"] == "no_eligible_offer"
    for body, entry in zip(bodies, entries, strict=True):
        if body["id"] != "bad":
            assert site.decide(body).json() == {**entry["decision"], "repeat": True}


def test_a_batch_larger_than_the_limit_is_refused(make_site: Callable[..., Site]) -> None:
    """The limit of a batch is named."""
    site = make_site(batch_limit=2)
    bodies: list[dict[str, Any]] = [{"subject": f"u{i}"} for i in range(3)]
    answer = site.call("POST", "/v1/placements/offer_page/decisions:batch", {"decisions": bodies})
    assert answer.status_code == 400
    assert "at most 2 are taken" in answer.json()["error"]["message"]


def test_deferred_activation(site: Site) -> None:
    """A decision made with ``activated: false`` becomes an exposure when it is activated, once."""
    site.decide({"id": "d1", "subject": "u1", "activated": False})
    assert site.call("GET", "/v1/decisions/d1").json()["activated"] is False
    assert site.call("POST", "/v1/decisions/d1/activation", key="reward").json()["first"] is True
    assert site.call("POST", "/v1/decisions/d1/activation", key="reward").json()["first"] is False
    assert site.call("GET", "/v1/decisions/d1").json()["activated"] is True
    assert site.call("POST", "/v1/decisions/nope/activation").status_code == 404


def test_sandbox_time_is_stamped_into_the_record(site: Site) -> None:
    """The time header of a sandbox is the decision's time, in UTC."""
    site.decide({"id": "d1", "subject": "u1"}, headers={"Nextoffer-Time": "2026-05-01T03:00:00+03:00"})
    assert site.call("GET", "/v1/decisions/d1").json()["at"] == "2026-05-01T00:00:00+00:00"
    for wrong in ("yesterday", "2026-05-01T00:00:00", "0001-01-01T00:00:00Z"):
        assert site.decide({"subject": "u1"}, headers={"Nextoffer-Time": wrong}).status_code == 400


def test_production_refuses_the_time_header(make_site: Callable[..., Site]) -> None:
    """Nobody can move time in production, and nobody is left believing that he did."""
    site = make_site(mode="production")
    answer = site.decide({"subject": "u1"}, headers={"Nextoffer-Time": "2026-05-01T00:00:00Z"})
    assert answer.status_code == 403
    assert "sandbox" in answer.json()["error"]["message"]


def test_recent_events_are_recorded_before_the_decision(site: Site) -> None:
    """Events that come with a decision are facts of their own: repeated, they count once."""
    body = {"id": "d1", "subject": "u1", "events": [{"id": "e1", "kind": "page_view", "item": "pricing"}]}
    assert site.decide(body).status_code == 200
    again = site.call("POST", "/v1/events", {"id": "e1", "subject": "u1", "kind": "page_view", "item": "pricing"})
    assert again.json()["status"] == "repeat"
