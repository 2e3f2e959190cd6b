"""Rewards, outcomes and events over HTTP."""

from __future__ import annotations

from datetime import timedelta

from tests.api.conftest import NOW, PLACEMENT, Site


def test_a_reward_says_what_it_joined_and_counts_once(site: Site) -> None:
    """A reward joins its decision; sent twice it is one."""
    site.decide({"id": "d1", "subject": "u1"})
    first = site.call("POST", "/v1/rewards", {"decision": "d1", "kind": "subscribed"}, key="reward")
    assert first.status_code == 200
    assert first.json()["message"] == "reward joined to decision d1"
    again = site.call("POST", "/v1/rewards", {"decision": "d1", "kind": "subscribed"}, key="reward").json()
    assert (again["status"], again["joined"]) == ("repeat", True)
    other = site.call("POST", "/v1/rewards", {"decision": "d1", "kind": "subscribed", "value": 2.0})
    assert other.status_code == 409
    status = site.call("GET", "/v1/placements/offer_page/status", key="read").json()
    assert (status["n_decisions"], status["n_rewards"]) == (1, 1)


def test_a_reward_of_a_kind_that_nothing_learns_from_says_so(site: Site) -> None:
    """A kind that the placement's reward definition does not name is kept, and the answer names the kinds that count."""
    site.decide({"id": "d1", "subject": "u1"})
    mistyped = site.call("POST", "/v1/rewards", {"decision": "d1", "kind": "subscribd"}, key="reward").json()
    assert (mistyped["status"], mistyped["joined"], mistyped["counts"]) == ("recorded", True, False)
    assert mistyped["message"] == (
        "reward joined to decision d1, but nothing learns from kind 'subscribd': the reward definition of placement "
        "'offer_page' names subscribed"
    )
    right = site.call("POST", "/v1/rewards", {"decision": "d1", "kind": "subscribed"}, key="reward").json()
    assert right["counts"] is True
    other = {**PLACEMENT, "reward": {"terms": [{"kind": "clicked"}], "window_s": 60.0}}
    site.call("PUT", "/v1/placements/other", other)
    for kind, counts in (("clicked", False), ("subscribed", True)):
        body = {"decision": "d1", "kind": kind, "id": f"again-{kind}"}
        assert site.call("POST", "/v1/rewards", body, key="reward").json()["counts"] is counts


def test_a_reward_for_an_unknown_decision_is_refused(site: Site) -> None:
    """A reward that joins nothing is an error of the caller, who is told what to do."""
    answer = site.call("POST", "/v1/rewards", {"decision": "nope", "kind": "subscribed"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_decision"


def test_an_outcome_is_attributed_to_the_last_exposure(site: Site) -> None:
    """Billing knows a subject: its news belongs to the last activated decision within the window."""
    for i, day in enumerate((0, 2)):
        at = (NOW + timedelta(days=day)).isoformat()
        site.decide({"id": f"d{i}", "subject": "u1"}, headers={"Nextoffer-Time": at})
    site.decide(
        {"id": "unseen", "subject": "u1", "activated": False},
        headers={"Nextoffer-Time": (NOW + timedelta(days=3)).isoformat()},
    )
    later = {"Nextoffer-Time": (NOW + timedelta(days=10)).isoformat()}
    body = {"subject": "u1", "kind": "subscribed", "id": "invoice-1", "at": (NOW + timedelta(days=4)).isoformat()}
    answer = site.call("POST", "/v1/outcomes", body, headers=later, key="reward").json()
    assert answer["attributed_to"] == ["d1"]
    before = {**body, "id": "invoice-2", "at": (NOW + timedelta(days=1)).isoformat()}
    assert site.call("POST", "/v1/outcomes", before, headers=later).json()["attributed_to"] == ["d0"]


def test_a_fact_from_the_future_is_refused(site: Site) -> None:
    """What has not happened yet is not taken in."""
    body = {"subject": "u1", "kind": "subscribed", "at": (NOW + timedelta(hours=1)).isoformat()}
    answer = site.call("POST", "/v1/outcomes", body)
    assert answer.status_code == 400
    assert "after now" in answer.json()["error"]["message"]


def test_an_idempotency_key_makes_an_outcome_count_once(site: Site) -> None:
    """The header names the fact where the body does not."""
    headers = {"Idempotency-Key": "hook-1"}
    body = {"subject": "u1", "kind": "margin_eur", "value": 4.5}
    assert site.call("POST", "/v1/outcomes", body, headers=headers).json()["status"] == "recorded"
    assert site.call("POST", "/v1/outcomes", body, headers=headers).json()["status"] == "repeat"
