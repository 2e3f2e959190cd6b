"""Both official Python SDKs, as their users have them, against a real server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from azure.ai.personalizer import PersonalizerAdministrationClient
from azure.ai.personalizer import PersonalizerClient as NewClient
from azure.cognitiveservices.personalizer import PersonalizerClient as OldClient
from azure.cognitiveservices.personalizer.models import ErrorResponseException, RankableAction, RankRequest
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError
from msrest.authentication import CognitiveServicesCredentials
from msrest.exceptions import HttpOperationError

from engine.decisions.opening import open_service
from policies.features import FeatureSpace
from policies.linear import LinTS
from policies.records import Context, DecisionTable, Offer, OfferId, OfferSet, SubjectId
from tests.api.process import ServerProcess, start_server

ACTIONS: list[dict[str, Any]] = [
    {
        "id": "pasta",
        "features": [{"taste": "salty", "spice": "medium"}, {"nutrition": {"level": 5, "cuisine": "italian"}}],
    },
    {"id": "ice cream", "features": [{"taste": "sweet"}]},
    {"id": "juice", "features": [{"tags": ["cold", "fresh"], "sizes": [1, 2.5]}]},
]
CONTEXT: list[dict[str, Any]] = [{"time": {"day": "monday"}}, {"user": {"age": 31, "is_member": True, "ref": None}}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One sandbox server for the module, with a registered policy called menu."""
    home = tmp_path_factory.mktemp("personalizer") / "home"
    with open_service(home) as service:
        offers = OfferSet([Offer(OfferId(a["id"])) for a in ACTIONS])
        space = FeatureSpace.fit(DecisionTable.from_contexts(offers, [Context(SubjectId("s"), {"user.age": 30.0})]))
        service.policies.register(LinTS(space).to_artifact(), name="menu", at=datetime.now(UTC))
    started = start_server(home)
    yield started
    assert started.stop() == 0
    assert "Traceback" not in started.log.read_text()


@pytest.fixture
def old(server: ServerProcess) -> Iterator[Any]:
    """The client of version 1.0."""
    client: Any = OldClient(server.url, CognitiveServicesCredentials(server.key))  # type: ignore[no-untyped-call]  # the SDK has no types
    with client._client:
        yield client


@pytest.fixture
def new(server: ServerProcess) -> Iterator[Any]:
    """The client of 2022-09-01-preview."""
    with NewClient(server.url, AzureKeyCredential(server.key)) as client:
        yield client


@pytest.fixture
def admin(server: ServerProcess) -> Iterator[Any]:
    """The administration client of 2022-09-01-preview."""
    with PersonalizerAdministrationClient(server.url, AzureKeyCredential(server.key)) as client:
        yield client


def _audit(server: ServerProcess, decision: str) -> Any:
    return httpx.get(f"{server.url}/v1/decisions/{decision}", headers=server.headers).json()


def test_the_old_sdk_ranks_activates_and_rewards(server: ServerProcess, old: Any) -> None:
    """Version 1.0: a ranking over all actions, a deferred activation, a reward that joins the decision in our log."""
    event = uuid.uuid4().hex
    request = RankRequest(
        actions=[RankableAction(id=a["id"], features=a["features"]) for a in ACTIONS],
        context_features=CONTEXT,
        excluded_actions=["pasta"],
        event_id=event,
        defer_activation=True,
    )
    answer = old.rank(rank_request=request)
    assert answer.event_id == event
    assert answer.ranking[0].id == "pasta"  # excluded actions keep their place
    assert [r.probability for r in answer.ranking if r.id == "pasta"] == [0.0]
    assert sum(r.probability for r in answer.ranking) == pytest.approx(1.0)
    assert {r.id for r in answer.ranking} == {a["id"] for a in ACTIONS}
    assert answer.reward_action_id in {"ice cream", "juice"}
    logged = _audit(server, event)
    assert logged["activated"] is False
    assert logged["features"] == {"time.day": "monday", "user.age": 31, "user.is_member": True}
    assert dict(zip(logged["offers"], logged["probabilities"], strict=True)) == pytest.approx(
        {r.id: r.probability for r in answer.ranking if r.id != "pasta"}
    )
    old.events.activate(event_id=event)
    old.events.reward(event_id=event, value=0.5)
    assert _audit(server, event)["activated"] is True
    status = httpx.get(f"{server.url}/v1/placements/personalizer/status", headers=server.headers).json()
    assert f"reward joined to {event}" in status["last_reward"] or event in status["last_reward"]


def test_the_new_sdk_ranks_and_rewards_one_slot(server: ServerProcess, new: Any) -> None:
    """2022-09-01-preview, one slot; the probabilities are those of the log, the chosen action comes first."""
    answer = new.rank({"contextFeatures": CONTEXT, "actions": ACTIONS})
    assert answer["ranking"][0]["id"] == answer["rewardActionId"]
    # The default loop explores 20 % uniformly around the baseline, the first action.
    assert {r["id"]: r["probability"] for r in answer["ranking"]} == pytest.approx(
        {"pasta": 0.8 + 0.2 / 3, "ice cream": 0.2 / 3, "juice": 0.2 / 3}
    )
    new.reward(answer["eventId"], {"value": 1.0})
    new.activate(answer["eventId"])
    assert _audit(server, answer["eventId"])["offer"] == answer["rewardActionId"]


def test_the_new_sdk_ranks_several_slots(server: ServerProcess, new: Any) -> None:
    """Multi-slot: no action twice, exclusions kept, each slot's reward joins its own decision."""
    request = {
        "contextFeatures": CONTEXT,
        "actions": ACTIONS,
        "slots": [
            {
                "id": "main",
                "positionFeatures": [{"size": "large"}],
                "excludedActions": ["juice"],
                "baselineAction": "pasta",
            },
            {"id": "side", "features": [{"size": "small"}], "baselineAction": "juice"},
        ],
        "deferActivation": True,
    }
    answer = new.rank_multi_slot(request)
    chosen = {s["id"]: s["rewardActionId"] for s in answer["slots"]}
    assert set(chosen) == {"main", "side"}
    assert len(set(chosen.values())) == 2
    assert chosen["main"] != "juice"
    event = answer["eventId"]
    logged = {slot: _audit(server, f"{event}%23{slot}") for slot in chosen}
    assert logged["side"]["features"]["slot.size"] == "small"
    assert logged["main"]["features"]["slot.size"] == "large"
    assert not logged["main"]["activated"]
    new.activate_multi_slot(event)
    assert all(_audit(server, f"{event}%23{slot}")["activated"] for slot in chosen)
    new.reward_multi_slot(event, {"reward": [{"slotId": "main", "value": 1.0}, {"slotId": "side", "value": 0.0}]})
    with pytest.raises(HttpResponseError) as refused:
        new.activate_multi_slot("unknown-event")
    assert refused.value.status_code == 400


def test_service_configuration_changes_how_it_decides(server: ServerProcess, new: Any, admin: Any) -> None:
    """Apprentice answers with the baseline action always; Online explores again; reward settings reach the placement."""
    before = admin.get_service_configuration()
    assert before["learningMode"] == "Online"
    changed = {
        **before,
        "learningMode": "Apprentice",
        "rewardWaitTime": "PT2H",
        "defaultReward": -0.25,
        "rewardAggregation": "sum",
    }
    assert admin.update_service_configuration(changed)["learningMode"] == "Apprentice"
    answer = new.rank({"contextFeatures": CONTEXT, "actions": ACTIONS, "excludedActions": ["pasta"]})
    assert answer["rewardActionId"] == "ice cream"
    assert {r["id"]: r["probability"] for r in answer["ranking"]} == {"pasta": 0.0, "ice cream": 1.0, "juice": 0.0}
    placement = httpx.get(f"{server.url}/v1/placements/personalizer", headers=server.headers).json()
    assert placement["reward"] == {
        "terms": [{"kind": "reward", "weight": 1.0}],
        "window_s": 7200.0,
        "default": -0.25,
        "aggregation": "sum",
    }
    assert admin.update_service_configuration(before) == before
    policy = {"name": "mine", "arguments": "--cb_explore_adf --epsilon 0.1"}
    assert admin.update_policy(policy) == policy
    assert admin.get_policy() == policy
    assert admin.reset_policy()["name"] != "mine"


def test_the_three_modes_behave_as_their_names_say(server: ServerProcess, new: Any, admin: Any) -> None:
    """Online draws from the registered policy; Apprentice shows the baseline in that policy's name, to be learned from; LoggingOnly does not."""
    assert admin.update_policy({"name": "menu", "arguments": "-"})["name"] == "menu"
    settings = admin.get_service_configuration()
    ask = {"contextFeatures": CONTEXT, "actions": ACTIONS, "excludedActions": ["pasta"]}
    found = {}
    for mode in ("Online", "Apprentice", "LoggingOnly", "Online"):
        admin.update_service_configuration({**settings, "learningMode": mode, "explorationPercentage": 0.5})
        event = new.rank(ask)["eventId"]
        logged = _audit(server, event)
        found[mode] = logged["policy"].partition("@")[0], logged["rung"], logged["explore_share"]
        if mode != "Online":
            assert (logged["offer"], logged["probability"]) == ("ice cream", 1.0)
        page = new.rank_multi_slot(
            {
                "actions": ACTIONS,
                "slots": [{"id": "a", "baselineAction": "juice"}, {"id": "b", "baselineAction": "juice"}],
            }
        )
        chosen = [s["rewardActionId"] for s in page["slots"]]
        assert len(set(chosen)) == 2
        if mode != "Online":
            assert chosen == ["juice", "pasta"]  # the second slot's own is taken: the first that is left
    assert found == {
        "Online": ("menu", "policy", 0.5),
        "Apprentice": ("menu", "apprentice", 0.0),
        "LoggingOnly": ("baseline", "baseline", 0.0),
    }
    admin.reset_policy()
    admin.update_service_configuration(settings)
    assert _audit(server, new.rank(ask)["eventId"])["policy"].startswith("baseline@")


def test_settings_are_kept_with_the_placement(server: ServerProcess, admin: Any) -> None:
    """All that the contract configures comes back, is a revision of the placement, and is not hidden in an offer."""
    before = admin.get_service_configuration()
    changed = {**before, "modelExportFrequency": "PT5M", "logRetentionDays": 90, "rewardWaitTime": "PT1H"}
    admin.update_service_configuration(changed)
    assert admin.get_service_configuration() == changed
    placement = httpx.get(f"{server.url}/v1/placements/personalizer", headers=server.headers).json()
    assert placement["doors"]["personalizer"]["service"]["logRetentionDays"] == 90
    assert [o["payload"] for o in placement["offers"]] == [{}]
    body = {k: v for k, v in placement.items() if k not in ("id", "revision")}
    put = httpx.put(f"{server.url}/v1/placements/personalizer", headers=server.headers, json=body)
    assert put.json()["revision"] == placement["revision"] + 1
    assert admin.get_service_configuration() == changed
    with pytest.raises(HttpResponseError) as refused:
        admin.update_service_configuration({**before, "isAutoOptimizationEnabled": True})
    assert refused.value.status_code == 501
    assert "nextoffer evaluate" in str(refused.value)
    admin.update_service_configuration(before)


def test_activation_through_both_sdks(server: ServerProcess, old: Any, new: Any) -> None:
    """Activating twice is harmless; an unknown event is the contract's own error."""
    event = new.rank({"actions": ACTIONS, "deferActivation": True})["eventId"]
    for _ in range(2):
        new.activate(event)
        old.events.activate(event_id=event)
    assert _audit(server, event)["activated"] is True
    with pytest.raises(HttpOperationError) as refused:
        old.events.activate(event_id="never-ranked")
    assert refused.value.response.status_code == 400
    assert refused.value.response.json()["error"]["code"] == "InvalidEventIdToActivate"


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": []},
        {"slots": [{"id": "a", "baselineAction": "nothing"}]},
        {"slots": [{"id": "a", "baselineAction": "pasta"}, {"id": "a", "baselineAction": "juice"}]},
        {"slots": [{"id": str(i), "baselineAction": "pasta"} for i in range(4)]},
        {"slots": [{"id": "a", "baselineAction": "pasta", "excludedActions": [a["id"] for a in ACTIONS]}]},
        {"actions": [ACTIONS[0], ACTIONS[0]], "slots": [{"id": "a", "baselineAction": "pasta"}]},
    ],
)
def test_wrong_multi_slot_requests(new: Any, wrong: dict[str, Any]) -> None:
    """More slots than actions, unknown baselines, repeated ids: 400 with the contract's code."""
    with pytest.raises(HttpResponseError) as refused:
        new.rank_multi_slot({"actions": ACTIONS, **wrong})
    assert refused.value.status_code == 400
    assert refused.value.error is not None
    assert refused.value.error.code == "InvalidRankRequest"


def test_errors_have_the_contract_s_form(server: ServerProcess, old: Any, new: Any) -> None:
    """400 with code and message, understood by both SDKs; a wrong key is 403."""
    with pytest.raises(ErrorResponseException) as refused:
        old.rank(rank_request=RankRequest(actions=[RankableAction(id="a", features=[{"x": [1, "y"]}])]))
    assert refused.value.response.status_code == 400
    error: Any = refused.value.error
    assert error.error.code == "InvalidRankRequest"
    with pytest.raises(HttpOperationError) as too_large:
        old.events.reward(event_id="e", value=7.0)
    assert too_large.value.response.json()["error"]["code"] == "InvalidRewardRequest"
    with pytest.raises(HttpResponseError) as also:
        new.rank({"actions": [{"id": "a"}, {"id": "a"}]})
    assert also.value.status_code == 400
    assert also.value.error is not None
    assert also.value.error.code == "InvalidRankRequest"
    stranger: Any = OldClient(server.url, CognitiveServicesCredentials("nxo_wrong"))  # type: ignore[no-untyped-call]  # the SDK has no types
    with stranger._client, pytest.raises(HttpOperationError) as unknown:
        stranger.events.activate(event_id="e")
    assert unknown.value.response.status_code == 403
    assert unknown.value.response.json()["error"]["code"] == "InvalidApiAccess"


def test_a_reward_to_an_unknown_event_is_taken_and_repeats_count_once(server: ServerProcess, new: Any) -> None:
    """The contract answers 204 for any event id; a retried reward is one reward, as the placement's count shows."""
    new.reward("never-ranked", {"value": 0.5})

    def n_rewards() -> int:
        url = f"{server.url}/v1/placements/personalizer/status"
        return int(httpx.get(url, headers=server.headers).json()["n_rewards"])

    event = new.rank({"actions": ACTIONS})["eventId"]
    before = n_rewards()
    for _ in range(4):
        new.reward(event, {"value": 0.5}, headers={"x-ms-client-request-id": "one-call"})
    assert n_rewards() == before + 1
    new.reward(event, {"value": 0.5}, headers={"x-ms-client-request-id": "another-call"})
    assert n_rewards() == before + 2


def test_what_is_not_here_says_so(admin: Any) -> None:
    """Evaluations, models and logs answer 501 with a sentence that names what to use instead."""
    for call in (
        lambda: list(admin.list_evaluations()),
        admin.get_model_properties,
        admin.get_log_properties,
        admin.delete_logs,
        lambda: admin.delete_evaluation("e1"),
    ):
        with pytest.raises(HttpResponseError) as refused:
            call()
        assert refused.value.status_code == 501
        assert "is not part of this service;" in str(refused.value)


@pytest.mark.parametrize("prefix", ["v1.0", "v1.1-preview.3", ""])
def test_every_version_s_addresses(server: ServerProcess, prefix: str) -> None:
    """The three forms of address lead to the same door, with either header."""
    base = "/".join(p for p in (server.url, "personalizer", prefix) if p)
    for headers in ({"Ocp-Apim-Subscription-Key": server.key}, server.headers):
        assert httpx.post(f"{base}/rank", json={"actions": ACTIONS}, headers=headers).status_code == 201
        assert httpx.post(f"{base}/events/e1/reward", json={"value": 1}, headers=headers).status_code == 204
    for path in ("v9/rank", "v1.0/ranks", "rank/more"):
        nowhere = httpx.post(f"{server.url}/personalizer/{path}", json={}, headers=server.headers)
        assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "ResourceNotFound")
