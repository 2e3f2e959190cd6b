"""Placements, policies and experiments over HTTP."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policies.artifact import save_artifact
from policies.fixed import FixedOrder
from tests.api.conftest import NOW, PLACEMENT, Site

SPLIT = {
    "id": "price-test",
    "placement": "offer_page",
    "variants": [
        {"key": "control", "weight_bp": 5000, "policy": "baseline"},
        {"key": "treatment", "weight_bp": 5000, "policy": "baseline"},
    ],
}


def _start(site: Site, **change: Any) -> Any:
    made = site.call("POST", "/v1/experiments", {**SPLIT, **change})
    assert made.status_code == 201, made.text
    return site.call("POST", "/v1/experiments/price-test/start", {"revision": made.json()["revision"]}).json()


def test_an_experiment_from_draft_to_stopped(site: Site) -> None:
    """Subjects keep their variant through a change of weights; a stale revision is refused; stopping ends exposure."""
    started = _start(site)
    assert (started["state"], started["phases"][0]["coverage"]) == ("running", 1.0)
    first = {f"u{i}": site.decide({"subject": f"u{i}"}).json()["variant"] for i in range(60)}
    share = Counter(first.values())
    assert set(share) == {"control", "treatment"}
    assert min(share.values()) >= 12  # 60 fair draws fall below 12 with probability 2e-6
    stale = site.call("POST", "/v1/experiments/price-test/stop", {"revision": 1})
    assert stale.status_code == 409
    body = {"revision": started["revision"], "weights_bp": {"control": 1000, "treatment": 9000}}
    changed = site.call("POST", "/v1/experiments/price-test/reweight", body).json()
    assert len(changed["phases"]) == 2
    again = {subject: site.decide({"subject": subject}).json()["variant"] for subject in first}
    assert again == first
    stopped = site.call("POST", "/v1/experiments/price-test/stop", {"revision": changed["revision"]}).json()
    assert stopped["state"] == "stopped"
    assert site.decide({"subject": "new"}).json()["variant"] is None
    restarted = site.call("POST", "/v1/experiments/price-test/start", {"revision": stopped["revision"]})
    assert restarted.json()["error"]["code"] == "wrong_state"
    assert [e["id"] for e in site.call("GET", "/v1/experiments").json()["experiments"]] == ["price-test"]


def test_a_variant_of_the_placements_own_policy_is_no_version_that_learns(site: Site) -> None:
    """What learns at a placement is named by its version; the name for whatever runs there is not one."""
    own, fixed = SPLIT["variants"]
    _start(site, variants=[{**own, "policy": "placement"}, fixed])  # type: ignore[dict-item]  # variants are mappings
    assert site.call("GET", "/v1/placements/offer_page/status").json()["learning"] == []


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"placement": "nowhere"}, 404, "unknown placement"),
        (
            {"variants": [*SPLIT["variants"][:1], {"key": "b", "weight_bp": 1, "policy": "baseline"}]},
            400,
            "sum to 5001",
        ),
        ({"variants": [*SPLIT["variants"][:1], {"key": "b", "weight_bp": 5000, "policy": "p@1"}]}, 404, "variant 'b'"),
        ({"variants": SPLIT["variants"][:1]}, 422, "variants"),
    ],
)
def test_a_bad_experiment(site: Site, change: dict[str, Any], status: int, words: str) -> None:
    """What could not run is refused as a draft."""
    answer = site.call("POST", "/v1/experiments", {**SPLIT, **change})
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_results_count_matured_subjects_by_variant(site: Site) -> None:
    """Counts per variant agree with what was sent; what has not matured is not counted as a no; the plan gives a sentence."""
    _start(site)
    variant: dict[str, str] = {}
    for i in range(40):
        variant[f"u{i}"] = site.decide({"subject": f"u{i}"}).json()["variant"]
    later = {"Nextoffer-Time": (NOW + timedelta(days=60)).isoformat()}
    for i in range(0, 40, 4):
        body = {"subject": f"u{i}", "kind": "subscribed", "id": f"s{i}", "at": (NOW + timedelta(days=1)).isoformat()}
        assert site.call("POST", "/v1/outcomes", body, headers=later).status_code == 200
    early = site.call("GET", "/v1/experiments/price-test/results").json()
    assert sum(r["n_subjects"] for r in early["rows"]) == 40
    assert sum(r["n_conversion_matured"] for r in early["rows"]) == 0
    path = "/v1/experiments/price-test/results?planned_subjects=1000&effect=0.02"
    late = site.call("GET", path, headers=later).json()
    for row in late["rows"]:
        mine = [s for s, v in variant.items() if v == row["variant"]]
        assert row["n_conversion_matured"] == len(mine)
        assert row["n_subscribed"] == sum(int(s[1:]) % 4 == 0 for s in mine)
    assert len(late["reading"]["sentence"]) > 20
    refused = site.call("GET", "/v1/experiments/price-test/results?effect=nan")
    assert refused.status_code == 400


def test_a_policy_is_registered_and_decides(site: Site, tmp_path: Path) -> None:
    """An artefact folder becomes name@version, a placement names it, and the log says that it decided."""
    folder = save_artifact(FixedOrder(("winback", "monthly")).to_artifact(), tmp_path / "artefact")
    made = site.call("POST", "/v1/policies", {"name": "always-winback", "path": str(folder)})
    assert made.status_code == 200, made.text
    ref = made.json()["policy"]
    assert ref.startswith("always-winback@")
    assert [p["policy"] for p in site.call("GET", "/v1/policies").json()["policies"]] == [ref]
    assert site.call("PUT", "/v1/placements/offer_page", {**PLACEMENT, "policy": ref}).json()["revision"] == 2
    decided = site.decide({"id": "d1", "subject": "u"}).json()
    assert (decided["policy"], decided["rung"]) == (ref, "policy")
    logged = site.call("GET", "/v1/decisions/d1").json()
    assert dict(zip(logged["offers"], logged["probabilities"], strict=True)) == pytest.approx(
        {"monthly": 0.1, "annual": 0.1, "winback": 0.8}
    )
    missing = site.call("POST", "/v1/policies", {"name": "x", "path": str(tmp_path / "none")})
    assert (missing.status_code, missing.json()["error"]["code"]) == (400, "bad_artifact")
